"""Settings of question answering: the table `[qa]` of a recipe.

A text LLM writes questions and answers about clips; training and the judge use them.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

from rellm_cache.config.constraints import Count, Holds, Range, Section, Seed, Share, Weight
from rellm_cache.errors import ConfigError

QAMode = Literal["explicit", "implicit"]
QAType = Literal["content", "emotion", "cause", "reply"]
MODES: tuple[QAMode, ...] = get_args(QAMode)
TYPES: tuple[QAType, ...] = get_args(QAType)


@dataclass(frozen=True)
class GivenQuestions:
    """The question of each type; if empty, the LLM writes it."""

    content: str = ""
    """What is said."""
    emotion: str = ""
    """How it sounds; the answer must name the label."""
    cause: str = ""
    """The reason behind it."""
    reply: str = ""
    """What to say to the speaker."""


@dataclass(frozen=True)
class PairRequests(Section):
    """Requests to the LLM for questions and answers."""

    table = "qa.pairs"

    content: Annotated[str, Holds("{transcript}")] = (
        'Someone says: "{transcript}"\n{metadata}\n'
        "Write {count} question(s) about what the speaker says, each with its short answer.\n"
        "Use this form:\nQuestion: ...\nAnswer: ..."
    )
    """A question about what the speaker says."""
    emotion: Annotated[str, Holds("{transcript}")] = (
        'Someone says: "{transcript}"\n{metadata}\n'
        "Write {count} question(s) about how the speaker sounds, each with a short answer that "
        "names the emotion. The question must not name it.\n"
        "Use this form:\nQuestion: ...\nAnswer: ..."
    )
    """A question about how the speaker sounds."""
    cause: Annotated[str, Holds("{transcript}")] = (
        'Someone says: "{transcript}"\n{metadata}\n'
        "Write {count} question(s) about what may have made the speaker feel so, each with its "
        "short answer. The question must not name the emotion.\n"
        "Use this form:\nQuestion: ...\nAnswer: ..."
    )
    """A question about what may have made the speaker feel so."""
    reply: Annotated[str, Holds("{transcript}")] = (
        'Someone says: "{transcript}"\n{metadata}\n'
        "Write {count} question(s) that ask how to answer the speaker kindly, each with what to "
        "say. The question must not name the emotion.\n"
        "Use this form:\nQuestion: ...\nAnswer: ..."
    )
    """A question about how to answer the speaker."""


@dataclass(frozen=True)
class AnswerRequests(Section):
    """Requests to the LLM for the answer to a given question."""

    table = "qa.answers"

    content: Annotated[str, Holds("{transcript}", "{question}")] = (
        'Someone says: "{transcript}"\n{metadata}\n'
        "Question: {question}\nAnswer in one short sentence."
    )
    """The answer to a question about what the speaker says."""
    emotion: Annotated[str, Holds("{transcript}", "{question}")] = (
        'Someone says: "{transcript}"\n{metadata}\n'
        "Question: {question}\nAnswer in one short sentence that names the emotion."
    )
    """The answer to a question about how the speaker sounds."""
    cause: Annotated[str, Holds("{transcript}", "{question}")] = (
        'Someone says: "{transcript}"\n{metadata}\n'
        "Question: {question}\nAnswer in one short sentence."
    )
    """The answer to a question about the cause."""
    reply: Annotated[str, Holds("{transcript}", "{question}")] = (
        'Someone says to you: "{transcript}"\n{metadata}\n{question}'
    )
    """The answer to a question about a reply."""


@dataclass(frozen=True)
class JudgeSettings(Section):
    """How an LLM judges answers to the questions."""

    table = "qa.judge"

    system: str = "You are a strict but fair judge of answers."
    """System text of the judge."""
    request: Annotated[str, Holds("{question}", "{reference}", "{answer}")] = (
        "Question: {question}\nReference answer: {reference}\nGiven answer: {answer}\n"
        "How well does the given answer agree with the reference, from 0 (not at all) to {top} "
        "(fully)? Say the number alone."
    )
    """What the judge is asked. It may also hold `{top}`."""
    top: Annotated[int, Range(1, 9)] = 5
    """Highest score, a single digit; the lowest is 0."""
    answer_tokens: Count = 48
    """Most new tokens of a run's answer to a question."""


@dataclass(frozen=True)
class QASettings(Section):
    """Contextual paralinguistic questions that `rellm qa` writes and `losses.qa_lm` learns."""

    table = "qa"

    mode: Literal["explicit", "implicit", "both"] = "both"
    """Which rows `rellm qa` writes and `rellm train` takes. `"explicit"`: metadata may stand before
    the question. `"implicit"`: speech and question alone."""
    types: tuple[str, ...] = TYPES
    """Types of questions: one or more of `content`, `emotion`, `cause`, `reply`."""
    pairs_each: Count = 1
    """Questions of each type that one request asks for; one where the question is given."""
    prompt: Annotated[str, Holds("{speech}", "{question}")] = "{speech}\n{question}"
    """The user's turn in training and in `rellm judge`, after the system text
    `prompts.empathetic_system`. `{speech}` comes before `{question}`."""
    metadata: str = "The speaker sounds {emotion}."
    """The emotion in words."""
    dimensions: str = "Arousal is {arousal}, dominance is {dominance}, valence is {valence}."
    """The dimensions in words, after `metadata` where they are known; each is low, medium or high.
    Empty leaves them out."""
    bins: Annotated[tuple[float, ...], Range(above=0, below=1)] = (0.4, 0.6)
    """Where medium and high begin, in 0..1. An edge belongs to the level above it."""
    metadata_dropout: Share = 0.5
    """Share of explicit rows that have no metadata in an epoch, drawn again in each."""
    system: str = "You write short questions and answers about what people say and how they sound."
    """System text of the writer."""
    tokens: Count = 64
    """Most new tokens of one reply of the writer. An answer cut by it is dropped."""
    temperature: Weight = 0.0
    """0 writes greedily. Above 0 replies are drawn, each from its prompt and `seed` alone."""
    seed: Seed = 1
    """Seed of the draws."""
    answerable: Share = 0.5
    """An emotion question is dropped where the label is the likeliest from the transcript alone and
    at least so probable. 0 asks for no certainty, 1 drops nothing in practice."""
    questions: GivenQuestions = field(default_factory=GivenQuestions)
    pairs: PairRequests = field(default_factory=PairRequests)
    answers: AnswerRequests = field(default_factory=AnswerRequests)
    judge: JudgeSettings = field(default_factory=JudgeSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [name for name in self.types if name not in TYPES]:
            raise ConfigError(f"qa.types: unknown {unknown[0]!r}; expected some of {list(TYPES)}")
        if not self.types or len(set(self.types)) < len(self.types):
            raise ConfigError(
                f"qa.types = {list(self.types)}: expected one or more different types"
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
        if self.prompt.index("{question}") < self.prompt.index("{speech}"):
            raise ConfigError(
                f"qa.prompt = {self.prompt!r}: expected {{speech}} before {{question}}, so that "
                "all questions about a clip share its speech"
            )

    @property
    def modes(self) -> tuple[QAMode, ...]:
        """Modes of the rows to write."""
        return tuple(mode for mode in MODES if self.mode in (mode, "both"))

    @property
    def kinds(self) -> tuple[QAType, ...]:
        """Types of the questions to write."""
        return tuple(kind for kind in TYPES if kind in self.types)
