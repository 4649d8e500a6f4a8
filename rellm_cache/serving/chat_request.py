"""Chat request: the body of OpenAI's chat completions, read and checked.

Fields that would change nothing here are refused, not ignored: `null` is the same as no field.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rellm_cache.serving.errors import RequestError
from rellm_cache.serving.settings import ANSWER_TOKENS

FORMATS = ("wav", "mp3", "flac", "ogg")  # libsndfile finds the true one in the bytes
FIELDS = (
    "model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens",
    "temperature", "seed", "n", "top_p", "user", "metadata", "store",
)  # fmt: skip
NEUTRAL = {"n": 1, "top_p": 1, "store": False}  # fields with one allowed value
ROLES = ("system", "developer", "user", "assistant")
MAX_MESSAGES = 200
MAX_TEMPERATURE = 2.0


@dataclass(frozen=True)
class UserMessage:
    """A user's turn: text, or a sound file's bytes, or both."""

    text: str
    audio: bytes | None = None
    place: str = "messages"  # in the request, for messages


@dataclass(frozen=True)
class ChatRequest:
    """A checked request.

    Attributes:
        system: the system text; None for the recipe's.
        turns: of user and model in turn; the first and the last are the user's.
        max_tokens: None for the recipe's.
        temperature: 0 is greedy.
        include_usage: whether the last event of a stream counts tokens.
    """

    model: str
    system: str | None
    turns: tuple[UserMessage, ...]
    stream: bool = False
    include_usage: bool = False
    max_tokens: int | None = None
    temperature: float = 0.0
    seed: int = 0


def read_chat_request(body: Mapping[str, Any]) -> ChatRequest:
    """Check a body and decode its audio.

    Raises:
        RequestError: a field is unknown, missing or not allowed.
    """
    given = {name: value for name, value in body.items() if value is not None}
    for name in given:
        if name not in FIELDS:
            raise _wrong(name, f"is not supported; known are {', '.join(FIELDS)}")
    for name, value in NEUTRAL.items():
        if name in given and given[name] != value:
            raise _wrong(name, f"found {given[name]!r:.40}, only {value!r} is supported")
    model = given.get("model")
    if not isinstance(model, str):
        raise _wrong("model", "expected the name of a run, as /v1/models lists them")
    system, turns = _read_messages(given.get("messages"))
    limits = [given[n] for n in ("max_completion_tokens", "max_tokens") if n in given]
    return ChatRequest(
        model=model,
        system=system,
        turns=turns,
        stream=_flag(given, "stream"),
        include_usage=_include_usage(given.get("stream_options")),
        max_tokens=_number("max_completion_tokens", limits[0], 1, ANSWER_TOKENS)
        if limits
        else None,
        temperature=_temperature(given.get("temperature", 0)),
        seed=_number("seed", given.get("seed", 0), -(2**63), 2**63 - 1),
    )


def _read_messages(messages: object) -> tuple[str | None, tuple[UserMessage, ...]]:
    if not isinstance(messages, list) or not 1 <= len(messages) <= MAX_MESSAGES:
        raise _wrong("messages", f"expected a list of 1 to {MAX_MESSAGES} messages")
    system: str | None = None
    turns: list[UserMessage] = []
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        if not isinstance(message, dict):
            raise _wrong(place, f"found {message!r:.40}, expected an object")
        role = message.get("role")
        if role not in ROLES:
            raise _wrong(f"{place}.role", f"found {role!r:.40}, expected one of {', '.join(ROLES)}")
        if message.get("tool_calls") or message.get("function_call") or message.get("audio"):
            raise _wrong(place, "tools and spoken answers are not supported")
        content = _read_content(message.get("content"), f"{place}.content")
        if role in ("system", "developer"):
            if index:
                raise _wrong(place, "a system message is allowed as the first one only")
            if content.audio is not None:
                raise _wrong(place, "speech is allowed in messages of the user only")
            system = content.text
            continue
        wanted = "assistant" if len(turns) % 2 else "user"
        if role != wanted:
            raise _wrong(f"{place}.role", f"found {role!r}, expected {wanted!r}: turns alternate")
        if role == "assistant" and content.audio is not None:
            raise _wrong(place, "speech is allowed in messages of the user only")
        turns.append(content)
    if len(turns) % 2 == 0:
        raise _wrong("messages", "the last message must be the user's")
    return system, tuple(turns)


def _read_content(content: object, place: str) -> UserMessage:
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list) or not content:
        raise _wrong(place, "expected a text, or a list of parts `text` and `input_audio`")
    texts: list[str] = []
    audio: bytes | None = None
    for index, part in enumerate(content):
        at = f"{place}[{index}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "input_audio":
            if audio is not None:
                raise _wrong(at, "a second clip; expected one clip in a message")
            audio = _read_audio(part.get("input_audio"), f"{at}.input_audio")
        else:
            raise _wrong(at, f"found type {kind!r:.40}, expected a part `text` or `input_audio`")
    text = "\n".join(texts).strip()
    if not text and audio is None:
        raise _wrong(place, "is empty; expected text or speech")
    return UserMessage(text, audio, place)


def _read_audio(part: object, place: str) -> bytes:
    if not isinstance(part, dict) or not isinstance(part.get("data"), str):
        raise _wrong(place, "expected an object with `data` (base64) and `format`")
    if part.get("format", "wav") not in FORMATS:
        raise _wrong(
            f"{place}.format", f"found {part['format']!r:.40}, expected {', '.join(FORMATS)}"
        )
    try:
        return base64.b64decode(part["data"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise _wrong(f"{place}.data", f"is not base64 ({error})") from error


def _flag(given: Mapping[str, Any], name: str) -> bool:
    value = given.get(name, False)
    if not isinstance(value, bool):
        raise _wrong(name, f"found {value!r:.40}, expected true or false")
    return value


def _include_usage(options: object) -> bool:
    if options is None:
        return False
    if not isinstance(options, dict) or not set(options) <= {"include_usage"}:
        raise _wrong("stream_options", "expected an object with `include_usage` alone")
    return _flag(options, "include_usage")


def _number(name: str, value: object, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise _wrong(name, f"found {value!r:.40}, expected a whole number, {least} to {most}")
    return value


def _temperature(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong("temperature", f"found {value!r:.40}, expected a number")
    if not 0 <= value <= MAX_TEMPERATURE:
        raise _wrong("temperature", f"found {value!r:.40}, expected 0 to {MAX_TEMPERATURE:g}")
    return float(value)


def _wrong(param: str, what: str) -> RequestError:
    return RequestError(f"{param}: {what}", 400, "invalid_value", param)
