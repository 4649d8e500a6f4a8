"""Prompts as token ids: the parts before and after speech, and after the response.

The layout is ChatML as in the paper, or the model's own chat template.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rellm_cache.config.qa import QASettings
from rellm_cache.config.schema import PromptsConfig
from rellm_cache.errors import ConfigError

CHATML = (
    "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
CHATML_END = "<|im_end|>\n<|endoftext|>"
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")

# enable_thinking is for Qwen3; other templates ignore it. Llama 3's template writes today's date
# unless it gets a date; the date below is the template's own default.
TEMPLATE_SETTINGS = {"enable_thinking": False, "date_string": "26 Jul 2024"}

# Placeholders that show where a model's template puts speech and response.
_SPEECH, _RESPONSE = "SPEECHxGOESxHERE", "RESPONSExGOESxHERE"


@dataclass(frozen=True)
class SpeechPrompt:
    """Token ids before the speech, between speech and response, and at the end of a response."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    end: tuple[int, ...]


class ChatFormat:
    """A tokenizer with its model's chat layout; `ConfigError` if they do not fit together."""

    def __init__(self, tokenizer: Any, template: Literal["chatml", "model"]) -> None:
        self.tokenizer = tokenizer
        self.template = template
        if template == "chatml":
            for token in CHATML_TOKENS:
                if len(self.ids(token)) != 1:
                    raise ConfigError(
                        f'llm.template = "chatml": this tokenizer splits {token!r} into '
                        f'{len(self.ids(token))} pieces; set llm.template = "model"'
                    )
        elif not tokenizer.chat_template:
            raise ConfigError(
                'llm.template = "model": the tokenizer has no chat template; set it to "chatml"'
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
        turns = [{"role": "user", "content": "-"}, {"role": "assistant", "content": _RESPONSE}]
        return self._render(turns).partition(_RESPONSE)[2]

    @property
    def stop_ids(self) -> list[int]:
        """Token ids that stop generation: the first end token, and the tokenizer's end of text."""
        ends = {self.ids(self.end_text)[0], self.tokenizer.eos_token_id}
        if self.template == "chatml":
            ends.add(self.ids("<|endoftext|>")[0])
        return sorted(end for end in ends if end is not None)

    def _request(self, system: str, user: str) -> str:
        if self.template == "chatml":
            return CHATML.format(system=system, user=user)
        turns = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        text = self._render(turns, add_generation_prompt=True, **TEMPLATE_SETTINGS)
        if system not in text or user not in text:
            raise ConfigError(
                'llm.template = "model": the chat template changes or leaves out the system or '
                'user text; set llm.template = "chatml"'
            )
        return text

    def _render(self, turns: list[dict[str, str]], **options: Any) -> str:
        try:
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False, **options))
        except Exception as error:  # a template is a program and can fail in any way
            raise ConfigError(
                f'llm.template = "model": the chat template fails ({type(error).__name__}: '
                f'{error}); set llm.template = "chatml"'
            ) from error


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
