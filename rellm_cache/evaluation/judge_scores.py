"""How a run answers questions. In: judged answers. Out: means by type, the judge's own worth."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rellm_cache.corpus.emotions import SYNONYMS, emotions_in
from rellm_cache.metrics.intervals import Interval
from rellm_cache.metrics.ranks import rank_correlation
from rellm_cache.metrics.summary import Summary, summarise


@dataclass(frozen=True)
class JudgedAnswer:
    """A run's answer to one question.

    Attributes:
        id: of the utterance.
        type: of the question.
        question, reference: as in its row.
        answer: the run's.
        score: the judge's, 0 to `qa.judge.top`.
        right: the answer names the label and no other emotion; None for other types.
    """

    id: str
    type: str
    question: str
    reference: str
    answer: str
    score: float
    right: bool | None


@dataclass(frozen=True)
class JudgeScores:
    """How one run answers.

    Attributes:
        run: its folder.
        mode: of the rows it learnt from, `none` where it learnt from no questions.
        judge: the judging LLM.
        top: highest score.
        overall: of all answers.
        types: type → its scores.
        accuracy: share of emotion questions answered with the label; None without any.
        correlation: of score and rightness over emotion questions, Spearman's; None without any,
            and NaN where all are right or all wrong.
    """

    run: str
    mode: str
    judge: str
    top: int
    overall: Summary
    types: dict[str, Summary]
    accuracy: float | None
    correlation: Interval | None

    def to_json(self) -> dict[str, Any]:
        """As `judge --json` prints it; what has no value is null."""
        values = asdict(self)
        if self.correlation is not None and np.isnan(self.correlation.value):
            values["correlation"] = None
        return values


def names_label(answer: str, label: str) -> bool:
    """Whether an answer names the label and no other emotion."""
    return emotions_in(answer, tuple(SYNONYMS)) == [label]


def summarise_judged(
    judged: Sequence[JudgedAnswer], run: str, mode: str, model: str, top: int
) -> JudgeScores:
    """Means by type, and how score and rightness go together over emotion questions."""
    named = [answer for answer in judged if answer.right is not None]
    rights = [float(bool(answer.right)) for answer in named]
    types = sorted({answer.type for answer in judged})
    return JudgeScores(
        run=run,
        mode=mode,
        judge=model,
        top=top,
        overall=summarise([answer.score for answer in judged]),
        types={t: summarise([a.score for a in judged if a.type == t]) for t in types},
        accuracy=float(np.mean(rights)) if rights else None,
        correlation=rank_correlation([a.score for a in named], rights) if rights else None,
    )
