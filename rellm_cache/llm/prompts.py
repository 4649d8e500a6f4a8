"""Prompts as token ids: the parts before and after speech, and after the response.

The layout is ChatML as in the paper, or the model's own chat template. Special tokens are those of
the layout alone: in a system text, a user's text or a response `<|im_end|>` is text like any other.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, Literal

from rellm_cache.config.qa import QASettings
from rellm_cache.config.schema import PromptsConfig
from rellm_cache.errors import ConfigError, reason_of
from rellm_cache.llm.template_limit import limited_steps
from rellm_cache.utils.console import say_once

CHATML_TURN = "<|im_start|>{role}\n{text}<|im_end|>\n"
CHATML_REPLY = "<|im_start|>assistant\n"
CHATML_END = "<|im_end|>\n<|endoftext|>"
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")

# enable_thinking is for Qwen3; other templates ignore it. Llama 3's template writes today's date
# unless it gets a date; the date below is the template's own default.
TEMPLATE_SETTINGS = {"enable_thinking": False, "date_string": "26 Jul 2024"}

# Stand-ins that show where a template puts its texts; no text ever takes their place in a template.
_SYSTEM, _RESPONSE = "SYSTEMxGOESxHERE", "RESPONSExGOESxHERE"


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
        self._layouts: dict[tuple[bool, int], list[str]] = {}
        self._where = getattr(tokenizer, "name_or_path", "") or "tokenizer"
        if template == "chatml":
            for token in CHATML_TOKENS:
                if len(self._control_ids(token)) != 1:
                    raise ConfigError(
                        f'{self._where}: llm.template = "chatml", but this tokenizer splits '
                        f"{token!r} into {len(self._control_ids(token))} pieces; set "
                        'llm.template = "model"'
                    )
            if not set(CHATML_TOKENS) <= self._special_tokens.keys():  # they must not be text
                tokenizer.add_special_tokens({"additional_special_tokens": list(CHATML_TOKENS)})
        elif not tokenizer.chat_template:
            raise self._error("the tokenizer has no chat template")
        elif not self._special_ends():
            raise self._error(
                f"the chat template ends a response with {self.end_text!r}, expected a special "
                "token as <|im_end|>, without which an answer never ends"
            )

    def ids(self, text: str) -> tuple[int, ...]:
        """Token ids of a text; special tokens that it spells out are text."""
        found = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return tuple(found["input_ids"])

    def text_prompt(self, system: str, user: str) -> tuple[int, ...]:
        """Token ids of a request without speech, up to the start of the response."""
        (ids,) = self.conversation(system, [(user,)])
        return ids

    def speech_prompt(self, system: str, user: str, **values: str) -> SpeechPrompt:
        """Token ids around the speech of a request with `{speech}` in the user's turn.

        Args:
            values: text for other placeholders of `user`, by name; it is never a template itself.
        """
        before, after = self.conversation(system, [around_speech(user, **values)])
        return SpeechPrompt(before, after, self.end_ids)

    def conversation(self, system: str, turns: Sequence[Sequence[str]]) -> list[tuple[int, ...]]:
        """Token ids of a conversation up to the start of the next response, cut at each speech.

        Args:
            turns: of user and model in turn; the first and the last are the user's. A turn is the
                texts around its speeches: `("Hello",)` has none, `("", "")` is speech alone.

        Returns:
            One run of ids more than there are speeches.
        """
        layout = self._layout(system, len(turns))
        stripped = self._stripped(system, ["{speech}".join(turn) for turn in turns])
        pieces = [[layout[0], system.strip() if stripped[0] else system, layout[1]]]
        for index, turn in enumerate(turns):
            texts = list(turn)
            if stripped[1 + index % 2]:
                texts[0] = texts[0].lstrip()
                texts[-1] = texts[-1].rstrip()
            for place, text in enumerate(texts):
                if place:  # after speech
                    pieces.append([""])
                pieces[-1].append(text)
            pieces[-1].append(layout[index + 2])
        return [self._join(*piece) for piece in pieces]

    @property
    def end_text(self) -> str:
        """The text that ends a complete response."""
        if self.template == "chatml":
            return CHATML_END
        turns = [_turn("user", "-"), _turn("assistant", _RESPONSE)]
        return self._render(turns).partition(_RESPONSE)[2]

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """Token ids that end a complete response."""
        return self._control_ids(self.end_text)

    @property
    def stop_ids(self) -> list[int]:
        """Token ids that stop generation: the first end token, and the tokenizer's end of text."""
        ends = {self._special_ends()[0], self.tokenizer.eos_token_id, *self.more_stops}
        if self.template == "chatml":
            ends.add(self._control_ids("<|endoftext|>")[0])
        return sorted(end for end in ends if end is not None)

    def _special_ends(self) -> list[int]:
        """The special tokens among those that end a response, in order."""
        special = {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}
        return [token for token in self.end_ids if token in special]

    @property
    def _special_tokens(self) -> dict[str, Any]:
        """The tokenizer's special tokens by their text."""
        added = self.tokenizer.added_tokens_decoder.values()
        return {token.content: token for token in added if token.special}

    @cached_property
    def _special(self) -> re.Pattern[str]:
        """Matches a special token, with the whitespace that the tokenizer joins to it."""
        tokens = sorted(self._special_tokens.values(), key=lambda token: -len(token.content))
        patterns = (
            r"\s*" * token.lstrip + re.escape(token.content) + r"\s*" * token.rstrip
            for token in tokens
        )
        return re.compile(f"({'|'.join(patterns) or '(?!)'})")

    def _control_ids(self, text: str) -> tuple[int, ...]:
        """Token ids of a part of the layout; special tokens in it are recognized, none added."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _join(self, *parts: str) -> tuple[int, ...]:
        """Token ids of parts of a request: layout and text in turn, layout first.

        Layout and text are tokenized together, so that they merge as in one text.
        """
        if not any(self._special.search(text) for text in parts[1::2]):
            return self._control_ids("".join(parts))
        ids: list[int] = []
        plain = ""
        for index, part in enumerate(parts):
            pieces = [part] if index % 2 else self._special.split(part)
            for place, piece in enumerate(pieces):  # special tokens are at odd places
                if place % 2:
                    ids += (*self.ids(plain), *self._control_ids(piece))
                    plain = ""
                else:
                    plain += piece
        return (*ids, *self.ids(plain))

    def _layout(self, system: str, turns: int) -> list[str]:
        """Text of the layout before the system text and before each turn, and after the last."""
        known = self._layouts.get((bool(system), turns))
        if known is not None:
            return known
        marks = [f"TURN{index}xGOESxHERE" for index in range(turns)]
        rest = self._rendered(_SYSTEM if system else "", marks)
        layout = []
        for mark in ([_SYSTEM] if system else []) + marks:
            before, found, rest = rest.partition(mark)
            if not found:
                raise self._changed()
            layout.append(before)
        if not system:
            layout.insert(1, "")
        layout.append(rest)
        self._layouts[bool(system), turns] = layout
        return layout

    def _stripped(self, system: str, turns: Sequence[str]) -> tuple[bool, bool, bool]:
        """Whether the layout removes outer spaces of the system text, the user's, the model's."""
        layout = self._layout(system, len(turns))
        written = self._rendered(system, turns)
        for choice in product((False, True), (False, True), (False, True)):
            kinds = (choice[0], *(choice[1 + index % 2] for index in range(len(turns))))
            texts = [t.strip() if s else t for t, s in zip((system, *turns), kinds, strict=True)]
            around = zip(layout, (*texts, ""), strict=True)
            if written == "".join(part for pair in around for part in pair):
                return choice
        raise self._changed()

    def _changed(self) -> ConfigError:
        return self._error("the chat template changes or leaves out the system, user or model text")

    def _rendered(self, system: str, turns: Sequence[str]) -> str:
        """The layout with all texts, up to the start of the response; turns are as above."""
        written = [
            {"role": "assistant" if index % 2 else "user", "content": text}
            for index, text in enumerate(turns)
        ]
        if self.template == "chatml":
            all_turns = [_turn("system", system), *written]
            return (
                "".join(CHATML_TURN.format(role=t["role"], text=t["content"]) for t in all_turns)
                + CHATML_REPLY
            )
        if self._has_system_role:
            written = [_turn("system", system), *written]
        else:
            if system:
                written[0] = _turn("user", f"{system}\n\n{turns[0]}")
            say_once(
                f"{self._where}: the chat template has no system role; the system text is put "
                "before the user's"
            )
        return self._render(written, add_generation_prompt=True, **TEMPLATE_SETTINGS)

    @cached_property
    def _has_system_role(self) -> bool:
        """Whether the template writes a system text; those of Gemma and Mistral refuse it."""
        turns = [_turn("system", _SYSTEM), _turn("user", "-")]
        try:
            text = self._render(turns, add_generation_prompt=True, **TEMPLATE_SETTINGS)
        except ConfigError:
            return False
        return _SYSTEM in text

    def _render(self, turns: list[dict[str, str]], **options: Any) -> str:
        try:
            with limited_steps():
                return str(self.tokenizer.apply_chat_template(turns, tokenize=False, **options))
        except Exception as error:  # a template is a program and can fail in any way
            raise self._error(f"the chat template fails ({reason_of(error)})") from error

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
    return chat.speech_prompt(prompts.empathetic_system, qa.prompt, question=question)


def around_speech(template: str, **values: str) -> tuple[str, str]:
    """Texts before and after the first `{speech}` of a template, with its other placeholders.

    Args:
        values: text for each other placeholder, by name; it is never a template itself.
    """
    before, _, after = template.partition("{speech}")
    return fill_placeholders(before, values), fill_placeholders(after, values)


def fill_placeholders(template: str, values: Mapping[str, str]) -> str:
    """Replace each `{name}` of a template by its text, in one pass: texts may contain braces."""
    marks = re.compile("{(" + ("|".join(map(re.escape, values)) or "(?!)") + ")}")
    return marks.sub(lambda mark: values[mark[1]], template)
