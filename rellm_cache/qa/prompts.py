"""Requests to the LLM that writes questions, and metadata in words.

Each type of question has its own request. A request for all types at once makes a small LLM write
text that cannot be parsed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rellm_cache.config.qa import QAMode, QASettings, QAType
from rellm_cache.corpus.dimensions import DIMENSIONS
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.llm.prompts import fill_placeholders

LEVELS = ("low", "medium", "high")
LabelSource = Literal["corpus", "pseudo", "made"]


@dataclass(frozen=True)
class Request:
    """A request about one utterance."""

    user: str  # the user's turn
    question: str  # the given question; empty if the LLM writes the question too


def level_name(value: float, bins: Sequence[float]) -> str:
    """A dimension in 0..1 as "low", "medium" or "high", split at two edges."""
    return LEVELS[sum(value >= edge for edge in bins)]


def describe(utterance: Utterance, settings: QASettings) -> str:
    """Emotion and, if known, dimensions in words."""
    text = settings.metadata.replace("{emotion}", utterance.emotion or "")
    if utterance.vad is None:
        return text
    dimensions = settings.dimensions
    for name, value in zip(DIMENSIONS, utterance.vad, strict=True):
        dimensions = dimensions.replace(f"{{{name}}}", level_name(value, settings.bins))
    return f"{text} {dimensions}".strip()


def label_source(utterance: Utterance, settings: QASettings) -> LabelSource:
    """Source of labels in `describe`: `pseudo` or `made` if its dimensions are, else `corpus`."""
    has_dimensions = utterance.vad is not None and settings.dimensions
    if has_dimensions and utterance.vad_source in ("pseudo", "made"):
        return utterance.vad_source
    return "corpus"


def write_request(utterance: Utterance, kind: QAType, settings: QASettings) -> Request:
    """The request for pairs of one type, or for the answer to its given question."""
    question: str = getattr(settings.questions, kind)
    template: str = getattr(settings.answers if question else settings.pairs, kind)
    values = {
        "count": str(settings.pairs_each),
        "emotion": utterance.emotion or "",
        "metadata": describe(utterance, settings),
        "question": question,
        "transcript": utterance.text,
    }
    return Request(fill_placeholders(template, values), question)


def has_type(mode: QAMode, kind: str) -> bool:
    """Whether a mode has questions of a type; explicit metadata already tells the emotion."""
    return not (mode == "explicit" and kind == "emotion")
