"""Prompts. In: a tokenizer and the paper's wording. Out: token ids around speech, made once.

A prompt is cut where the speech and the response go: `before` speech, `after` speech, `end` after
the response. The layout is ChatML as the paper uses it, or the model's own chat template.
"""

from dataclasses import dataclass
from typing import Any, Literal

from rellm_cache.errors import ConfigError

CHATML = (
    "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
CHATML_END = "<|im_end|>\n<|endoftext|>"
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")

# enable_thinking is Qwen3's; other templates do not look at it. Llama 3's writes a date: without
# this one, which is its own default, it is the day's, and prompts would change overnight.
TEMPLATE_SETTINGS = {"enable_thinking": False, "date_string": "26 Jul 2024"}

# Stand-ins rendered through a model's template to find where speech and response go.
_SPEECH, _RESPONSE = "SPEECHxGOESxHERE", "RESPONSExGOESxHERE"


@dataclass(frozen=True)
class SpeechPrompt:
    """Token ids of everything around the speech of one kind of request.

    Attributes:
        before: ids from the start up to the speech; the same for every example.
        after: ids between speech and response.
        end: ids that end a complete response.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    end: tuple[int, ...]


class ChatFormat:
    """A tokenizer together with the chat layout its model is spoken to in."""

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
        """Token ids of a text as it stands, special tokens recognised, none added."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text_prompt(self, system: str, user: str) -> tuple[int, ...]:
        """Ids of a request without speech, up to where the response starts."""
        return self.ids(self._request(system, user))

    def speech_prompt(self, system: str, user: str) -> SpeechPrompt:
        """The pieces of a request whose user turn holds `{speech}`."""
        text = self._request(system, user.replace("{speech}", _SPEECH))
        before, _, after = text.partition(_SPEECH)
        return SpeechPrompt(self.ids(before), self.ids(after), self.ids(self.end_text))

    @property
    def end_text(self) -> str:
        """What follows a complete response."""
        if self.template == "chatml":
            return CHATML_END
        turns = [{"role": "user", "content": "-"}, {"role": "assistant", "content": _RESPONSE}]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False)
        return str(text.partition(_RESPONSE)[2])

    @property
    def stop_ids(self) -> list[int]:
        """Ids at which generation stops: the first end token, and the tokenizer's own end."""
        ends = {self.ids(self.end_text)[0], self.tokenizer.eos_token_id}
        if self.template == "chatml":
            ends.add(self.ids("<|endoftext|>")[0])
        return sorted(end for end in ends if end is not None)

    def _request(self, system: str, user: str) -> str:
        if self.template == "chatml":
            return CHATML.format(system=system, user=user)
        turns = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        text = self.tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, **TEMPLATE_SETTINGS
        )
        if system not in text or user not in text:
            raise ConfigError(
                'llm.template = "model": the chat template changes or leaves out the system or '
                'user text; set llm.template = "chatml"'
            )
        return str(text)
