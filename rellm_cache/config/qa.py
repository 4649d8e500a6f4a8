"""What a recipe's `[qa]` says. In: values of a TOML table. Out: frozen dataclasses, checked.

Questions and answers that a text LLM writes about clips, and how training and the judge use them.
"""

from dataclasses import dataclass, field, fields
from typing import Literal, get_args

from rellm_cache.errors import ConfigError

QAMode = Literal["explicit", "implicit"]
QAType = Literal["content", "emotion", "cause", "reply"]
MODES: tuple[QAMode, ...] = get_args(QAMode)
TYPES: tuple[QAType, ...] = get_args(QAType)


@dataclass(frozen=True)
class GivenQuestions:
    """The question of each type; empty where the LLM is to write it."""

    content: str = ""
    emotion: str = ""
    cause: str = ""
    reply: str = ""


@dataclass(frozen=True)
class PairRequests:
    """What the LLM is asked where it writes questions and answers."""

    content: str = (
        'Someone says: "{transcript}"\n{metadata}\n'
        "Write {count} question(s) about what the speaker says, each with its short answer.\n"
        "Use this form:\nQuestion: ...\nAnswer: ..."
    )
    emotion: str = (
        'Someone says: "{transcript}"\n{metadata}\n'
        "Write {count} question(s) about how the speaker sounds, each with a short answer that "
        "names the emotion. The question must not name it.\n"
        "Use this form:\nQuestion: ...\nAnswer: ..."
    )
    cause: str = (
        'Someone says: "{transcript}"\n{metadata}\n'
        "Write {count} question(s) about what may have made the speaker feel so, each with its "
        "short answer. The question must not name the emotion.\n"
        "Use this form:\nQuestion: ...\nAnswer: ..."
    )
    reply: str = (
        'Someone says: "{transcript}"\n{metadata}\n'
        "Write {count} question(s) that ask how to answer the speaker kindly, each with what to "
        "say. The question must not name the emotion.\n"
        "Use this form:\nQuestion: ...\nAnswer: ..."
    )


@dataclass(frozen=True)
class AnswerRequests:
    """What the LLM is asked where the question is given."""

    content: str = (
        'Someone says: "{transcript}"\n{metadata}\n'
        "Question: {question}\nAnswer in one short sentence."
    )
    emotion: str = (
        'Someone says: "{transcript}"\n{metadata}\n'
        "Question: {question}\nAnswer in one short sentence that names the emotion."
    )
    cause: str = (
        'Someone says: "{transcript}"\n{metadata}\n'
        "Question: {question}\nAnswer in one short sentence."
    )
    reply: str = 'Someone says to you: "{transcript}"\n{metadata}\n{question}'


@dataclass(frozen=True)
class JudgeSettings:
    """How an LLM judges answers to the questions."""

    system: str = "You are a strict but fair judge of answers."
    request: str = (
        "Question: {question}\nReference answer: {reference}\nGiven answer: {answer}\n"
        "How well does the given answer agree with the reference, from 0 (not at all) to {top} "
        "(fully)? Say the number alone."
    )
    top: int = 5
    answer_tokens: int = 48

    def __post_init__(self) -> None:
        for mark in ("{question}", "{reference}", "{answer}"):
            _require_once("qa.judge.request", self.request, mark)
        if not 1 <= self.top <= 9:
            raise ConfigError(f"qa.judge.top = {self.top}: expected 1 to 9, a single digit")


@dataclass(frozen=True)
class QASettings:
    """Contextual paralinguistic questions: written by `rellm qa`, learnt with `losses.qa_lm`."""

    mode: Literal["explicit", "implicit", "both"] = "both"
    types: tuple[str, ...] = TYPES
    pairs_each: int = 1
    prompt: str = "{speech}\n{question}"
    metadata: str = "The speaker sounds {emotion}."
    dimensions: str = "Arousal is {arousal}, dominance is {dominance}, valence is {valence}."
    bins: tuple[float, ...] = (0.4, 0.6)
    metadata_dropout: float = 0.5
    system: str = "You write short questions and answers about what people say and how they sound."
    tokens: int = 64
    temperature: float = 0.0
    seed: int = 1
    answerable: float = 0.5
    questions: GivenQuestions = field(default_factory=GivenQuestions)
    pairs: PairRequests = field(default_factory=PairRequests)
    answers: AnswerRequests = field(default_factory=AnswerRequests)
    judge: JudgeSettings = field(default_factory=JudgeSettings)

    def __post_init__(self) -> None:
        if unknown := [name for name in self.types if name not in TYPES]:
            raise ConfigError(f"qa.types: unknown {unknown[0]!r}; expected some of {list(TYPES)}")
        if not self.types or len(set(self.types)) < len(self.types):
            raise ConfigError(
                f"qa.types = {list(self.types)}: expected different types, one at least"
            )
        if self.modes == ("explicit",) and self.types == ("emotion",):
            raise ConfigError(
                'qa.types = ["emotion"] with qa.mode = "explicit": metadata would answer the '
                "question, so explicit rows have no emotion questions; name other types"
            )
        if len(self.bins) != 2 or not 0 < self.bins[0] <= self.bins[1] < 1:
            raise ConfigError(
                f"qa.bins = {list(self.bins)}: expected two edges within 0..1, the first of medium "
                "and the first of high"
            )
        for name in ("pairs_each", "tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"qa.{name} = {getattr(self, name)}: expected 1 or more")
        if self.temperature < 0:
            raise ConfigError(f"qa.temperature = {self.temperature}: expected 0 (greedy) or more")
        for name in ("metadata_dropout", "answerable"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"qa.{name} = {getattr(self, name)}: expected 0 to 1")
        for mark in ("{speech}", "{question}"):
            _require_once("qa.prompt", self.prompt, mark)
        if self.prompt.index("{question}") < self.prompt.index("{speech}"):
            raise ConfigError(
                f"qa.prompt = {self.prompt!r}: expected {{speech}} before {{question}}, so that "
                "all questions about a clip share its speech"
            )
        for table, part, mark in (
            ("pairs", self.pairs, "{transcript}"),
            ("answers", self.answers, "{transcript}"),
            ("answers", self.answers, "{question}"),
        ):
            for item in fields(part):
                _require_once(f"qa.{table}.{item.name}", getattr(part, item.name), mark)

    @property
    def modes(self) -> tuple[QAMode, ...]:
        """The modes of the rows it asks for."""
        return tuple(mode for mode in MODES if self.mode in (mode, "both"))

    @property
    def kinds(self) -> tuple[QAType, ...]:
        """The types of questions it asks for."""
        return tuple(kind for kind in TYPES if kind in self.types)


def _require_once(name: str, template: str, mark: str) -> None:
    if template.count(mark) != 1:
        raise ConfigError(f"{name} = {template!r}: expected {mark} exactly once")
