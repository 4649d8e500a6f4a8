"""The writer's prompts. In: an utterance, a recipe's `[qa]`. Out: requests, metadata in words.

One request for each type: a small LLM asked for everything at once writes no form that can be
read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rellm_cache.config.qa import QAMode, QASettings, QAType
from rellm_cache.corpus.manifest import DIMENSIONS, Utterance

LEVELS = ("low", "medium", "high")
LabelSource = Literal["corpus", "pseudo", "made"]


@dataclass(frozen=True)
class Request:
    """What the writer is asked about one utterance.

    Attributes:
        user: the user's turn.
        question: the given question, to which an answer alone is written; empty where the LLM
            writes the question too.
    """

    user: str
    question: str


def level(value: float, bins: Sequence[float]) -> str:
    """A dimension in 0..1 as a word: low below the first edge, high from the second on."""
    return LEVELS[sum(value >= edge for edge in bins)]


def describe(utterance: Utterance, settings: QASettings) -> str:
    """Emotion and, where known, binned dimensions in words."""
    text = settings.metadata.replace("{emotion}", utterance.emotion or "")
    if utterance.vad is None:
        return text
    dimensions = settings.dimensions
    for name, value in zip(DIMENSIONS, utterance.vad, strict=True):
        dimensions = dimensions.replace(f"{{{name}}}", level(value, settings.bins))
    return f"{text} {dimensions}".strip()


def label_source(utterance: Utterance, settings: QASettings) -> LabelSource:
    """Who gave what `describe` tells: the corpus, unless dimensions among it are not a person's."""
    told = utterance.vad is not None and settings.dimensions
    if told and utterance.vad_source in ("pseudo", "made"):
        return utterance.vad_source
    return "corpus"


def write_request(utterance: Utterance, kind: QAType, settings: QASettings) -> Request:
    """The request for the pairs of one type, or for the answer to its given question."""
    question: str = getattr(settings.questions, kind)
    template: str = getattr(settings.answers if question else settings.pairs, kind)
    filled = {
        "{count}": str(settings.pairs_each),
        "{emotion}": utterance.emotion or "",
        "{metadata}": describe(utterance, settings),
        "{question}": question,
        "{transcript}": utterance.text,  # last: a transcript may hold braces
    }
    for mark, text in filled.items():
        template = template.replace(mark, text)
    return Request(template, question)


def has_type(mode: QAMode, kind: str) -> bool:
    """Whether rows of a mode ask it: metadata would answer the question for the emotion."""
    return not (mode == "explicit" and kind == "emotion")
