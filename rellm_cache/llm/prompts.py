"""Prompts as token ids: the parts before and after speech, and after the response.

The layout is ChatML as in the paper, or the model's own chat template.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from rellm_cache.config.qa import QASettings
from rellm_cache.config.schema import PromptsConfig
from rellm_cache.errors import ConfigError
from rellm_cache.utils.console import say_once

CHATML = (
    "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
CHATML_END = "<|im_end|>\n<|endoftext|>"
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")

# enable_thinking is for Qwen3; other templates ignore it. Llama 3's template writes today's date
# unless it gets a date; the date below is the template's own default.
TEMPLATE_SETTINGS = {"enable_thinking": False, "date_string": "26 Jul 2024"}

# Placeholders that show where a model's template puts system text, speech and response.
_SYSTEM, _SPEECH, _RESPONSE = "SYSTEMxGOESxHERE", "SPEECHxGOESxHERE", "RESPONSExGOESxHERE"


@dataclass(frozen=True)
class SpeechPrompt:
    """Token ids before the speech, between speech and response, and at the end of a response."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    end: tuple[int, ...]


class ChatFormat:
    """A tokenizer with its model's chat layout.

    Raises `ConfigError` if they do not fit together, or the template gives no end token.

    Attributes:
        more_stops: token ids that stop generation besides those of tokenizer and template.
    """

    def __init__(self, tokenizer: Any, template: Literal["chatml", "model"]) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.more_stops: frozenset[int] = frozenset()
        self._where = getattr(tokenizer, "name_or_path", "") or "tokenizer"
        if template == "chatml":
            for token in CHATML_TOKENS:
                if len(self.ids(token)) != 1:
                    raise ConfigError(
                        f'{self._where}: llm.template = "chatml", but this tokenizer splits '
                        f'{token!r} into {len(self.ids(token))} pieces; set llm.template = "model"'
                    )
        elif not tokenizer.chat_template:
            raise self._error("the tokenizer has no chat template")
        elif not self._special_ends():
            raise self._error(
                f"the chat template ends a response with {self.end_text!r}, expected a special "
                "token as <|im_end|>, without which an answer never ends"
            )

    def ids(self, text: str) -> tuple[int, ...]:
        """Token ids of a text; special tokens in it are recognized, none are added."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text_prompt(self, system: str, user: str) -> tuple[int, ...]:
        """Token ids of a request without speech, up to the start of the response."""
        return self.ids(self._request(system, user))

    def speech_prompt(self, system: str, user: str) -> SpeechPrompt:
        """Token ids around the speech of a request with `{speech}` in the user's turn."""
        text = self._request(system, user.replace("{speech}", _SPEECH))
        before, _, after = text.partition(_SPEECH)
        return SpeechPrompt(self.ids(before), self.ids(after), self.ids(self.end_text))

    @property
    def end_text(self) -> str:
        """The text that ends a complete response."""
        if self.template == "chatml":
            return CHATML_END
        turns = [_turn("user", "-"), _turn("assistant", _RESPONSE)]
        return self._render(turns).partition(_RESPONSE)[2]

    @property
    def stop_ids(self) -> list[int]:
        """Token ids that stop generation: the first end token, and the tokenizer's end of text."""
        ends = {self._special_ends()[0], self.tokenizer.eos_token_id, *self.more_stops}
        if self.template == "chatml":
            ends.add(self.ids("<|endoftext|>")[0])
        return sorted(end for end in ends if end is not None)

    def _special_ends(self) -> list[int]:
        """The special tokens among those that end a response, in order."""
        special = {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}
        return [token for token in self.ids(self.end_text) if token in special]

    @cached_property
    def _has_system_role(self) -> bool:
        """Whether the template writes a system text; those of Gemma and Mistral refuse it."""
        turns = [_turn("system", _SYSTEM), _turn("user", _SPEECH)]
        try:
            text = self._render(turns, add_generation_prompt=True, **TEMPLATE_SETTINGS)
        except ConfigError:
            return False
        return _SYSTEM in text

    def _request(self, system: str, user: str) -> str:
        if self.template == "chatml":
            return CHATML.format(system=system, user=user)
        if self._has_system_role:
            turns = [_turn("system", system), _turn("user", user)]
        else:
            turns = [_turn("user", f"{system}\n\n{user}" if system else user)]
        text = self._render(turns, add_generation_prompt=True, **TEMPLATE_SETTINGS)
        if system.strip() not in text or user.strip() not in text:
            raise self._error("the chat template changes or leaves out the system or user text")
        if not self._has_system_role:
            say_once(
                f"{self._where}: the chat template has no system role; the system text is put "
                "before the user's"
            )
        return text

    def _render(self, turns: list[dict[str, str]], **options: Any) -> str:
        try:
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False, **options))
        except Exception as error:  # a template is a program and can fail in any way
            found = f"{type(error).__name__}: {error}"
            raise self._error(f"the chat template fails ({found})") from error

    def _error(self, found: str) -> ConfigError:
        return ConfigError(
            f'{self._where}: llm.template = "model", but {found}; correct chat_template.jinja (or '
            'chat_template in tokenizer_config.json), or set llm.template = "chatml"'
        )


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def speech_prompts(
    chat: ChatFormat, prompts: PromptsConfig, qa: QASettings, emotions: Sequence[str]
) -> dict[str, SpeechPrompt]:
    """Token ids around speech for each task; `emotions` are the options of recognition."""
    recognition = prompts.recognition_of(emotions)
    return {
        "response_lm": chat.speech_prompt(prompts.empathetic_system, prompts.alignment),
        "emotion_lm": chat.speech_prompt(prompts.plain_system, recognition),
        "answer": chat.speech_prompt(prompts.empathetic_system, prompts.answer),
        # All questions share the part before speech; each has its own part after it.
        "qa_lm": question_prompt(chat, prompts, qa, ""),
    }


def question_prompt(
    chat: ChatFormat, prompts: PromptsConfig, qa: QASettings, question: str
) -> SpeechPrompt:
    """Token ids around speech for one question about it."""
    user = qa.prompt.replace("{question}", question)
    return chat.speech_prompt(prompts.empathetic_system, user)
