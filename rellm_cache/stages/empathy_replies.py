"""How empathetic a run's answers are. In: transcripts and answers. Out: the paper's figures.

The transcript stands for the seeker's post, the answer for the reply.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rellm_cache.corpus.epitome import Exchange
from rellm_cache.devices import default_device
from rellm_cache.empathy.folder import load_empathy
from rellm_cache.empathy.scoring import score_exchanges
from rellm_cache.errors import ManifestError
from rellm_cache.metrics.replies import question_count, word_count
from rellm_cache.metrics.summary import Summary, summarise
from rellm_cache.progress import progress
from rellm_cache.stages.answering import Generation


@dataclass(frozen=True)
class EmpathyScores:
    """Levels and looks of the answers that have a transcript.

    Attributes:
        count: answers scored.
        replies_cut: answers longer than the scorer reads.
        levels: mechanism → mean and deviation of its level; "ER + EX" where both are known.
        long_levels: the same with the scorer's longer limit.
        words: length of answers.
        questions: questions an answer asks.
    """

    count: int
    replies_cut: int
    levels: dict[str, Summary]
    long_levels: dict[str, Summary]
    words: Summary
    questions: Summary


def score_answers(folder: Path, answers: Sequence[Generation]) -> EmpathyScores:
    """Score answers with the scorer in `folder`.

    Raises:
        RunError: it holds no finished scorer.
        ManifestError: no answer has a transcript.
    """
    spoken = [answer for answer in answers if answer.text.strip()]
    if not spoken:
        raise ManifestError(
            "no utterance has a transcript (text), which stands for the seeker's post; empathy "
            "cannot be scored"
        )
    model = load_empathy(folder, default_device())
    exchanges = [Exchange("", a.id, a.text, a.response) for a in spoken]
    scores = []
    with progress("Scoring", len(exchanges), "answers") as tick:
        for score in score_exchanges(model, exchanges):
            scores.append(score)
            tick()
    return EmpathyScores(
        count=len(scores),
        replies_cut=sum(s.reply_cut for s in scores),
        levels=_summaries([s.levels for s in scores]),
        long_levels=_summaries([s.long_levels for s in scores]),
        words=summarise([word_count(a.response) for a in spoken]),
        questions=summarise([question_count(a.response) for a in spoken]),
    )


def _summaries(levels: Sequence[dict[str, int]]) -> dict[str, Summary]:
    found = {name: summarise([row[name] for row in levels]) for name in levels[0]}
    if {"ER", "EX"} <= found.keys():
        found["ER + EX"] = summarise([row["ER"] + row["EX"] for row in levels])
    return found
