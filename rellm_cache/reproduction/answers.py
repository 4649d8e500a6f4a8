"""Answers of a reproduction with their labels and empathy levels, one record per answer.

<reproduction>/utterances.csv    all records, for any statistics program
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rellm_cache.config.specs import digest
from rellm_cache.corpus.manifest import read_lines
from rellm_cache.empathy.epitome import Exchange
from rellm_cache.empathy.scorer_folder import CARD, EmpathyModel, load_empathy
from rellm_cache.empathy.scoring import score_exchanges
from rellm_cache.errors import RunError
from rellm_cache.evaluation.predictions import PREDICTIONS, read_predictions
from rellm_cache.metrics.replies import question_count, word_count
from rellm_cache.reproduction.runs import RESPONSES, Job
from rellm_cache.utils.atomic_files import write_csv
from rellm_cache.utils.console import progress
from rellm_cache.utils.devices import default_device
from rellm_cache.utils.json_files import read_object
from rellm_cache.utils.regular_files import file_digest
from rellm_cache.utils.resumable_table import FINGERPRINT, ResultTable, Row, fingerprint_of

EMPATHY, UTTERANCES = "empathy.jsonl", "utterances.csv"
LABELS = ("speaker", "emotion", "head", "llm", "llm_in_words")  # columns of predictions.csv
LEVELS = ("er", "ex", "er_long", "ex_long")


@dataclass(frozen=True)
class Record:
    """An answer of one model to one utterance of a test split."""

    fold: str  # fold of the test split
    row: str  # model
    id: str  # utterance
    speaker: str
    emotion: str  # true emotion
    head: str  # emotion predicted by the category head; empty for a text model
    llm: str  # most likely label by the LLM; empty if there is none
    llm_in_words: str  # label named in the LLM's answer; empty if none
    words: int  # number of words in the answer
    questions: int  # number of questions in the answer
    cut: bool | None  # whether the answer is longer than the scorer reads
    er: int | None  # level 0 to 2 with EPITOME's token limit; None without a scorer
    ex: int | None
    er_long: int | None  # the same with the scorer's longer limit
    ex_long: int | None
    text: str  # transcript
    response: str  # the answer


class Scorer:
    """An empathy scorer, loaded when the first answer has no score."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._model: EmpathyModel | None = None
        self._card = file_digest(folder / CARD)

    def levels(self, out: Path, exchanges: Sequence[Exchange]) -> list[Mapping[str, Any]]:
        """Levels of exchanges, stored in `out`: `er`, `ex`, `er_long`, `ex_long`, `cut`."""
        texts = [[e.seeker_post, e.response_post] for e in exchanges]
        table = ResultTable(out, digest([self._card, texts]), _former_scores(out, exchanges))
        missing = {*table.missing(e.reply for e in exchanges)}
        left = [e for e in exchanges if e.reply in missing]
        if left:
            self._model = self._model or load_empathy(self._folder, default_device())
            with table:
                for exchange, score in zip(left, score_exchanges(self._model, left), strict=True):
                    table.add(
                        exchange.reply,
                        er=score.levels["ER"],
                        ex=score.levels["EX"],
                        er_long=score.long_levels["ER"],
                        ex_long=score.long_levels["EX"],
                        cut=int(score.reply_cut),
                    )
        scores = [table[e.reply] for e in exchanges]
        table.finish(map(dict, scores))
        return scores


def _former_scores(out: Path, exchanges: Sequence[Exchange]) -> Iterable[Row] | None:
    """Rows from the JSON file of the first version of this module; None if there is none."""
    former = out.with_suffix(".json")
    if out.exists() or not former.exists():
        return None
    kept = read_object(former, RunError, "remove it, and its answers are scored again")
    names = ({"id": e.reply, FINGERPRINT: fingerprint_of(kept)} for e in exchanges)
    return [name | scores for name, scores in zip(names, kept["scores"], strict=False)]


def collect_records(jobs: Sequence[Job], empathy: Path | None) -> list[Record]:
    """Records of finished jobs, in order.

    Args:
        empathy: folder of an empathy scorer, or None to leave empathy out.

    Raises:
        RunError: the folder holds no finished scorer.
    """
    scorer = None if empathy is None else Scorer(empathy)
    records: list[Record] = []
    with progress("Scoring", len(jobs), "models") as tick:
        for job in jobs:
            records += _records(job, scorer)
            tick(1, job.title)
    return records


def _records(job: Job, scorer: Scorer | None) -> Iterable[Record]:
    answers = [row for _, row in read_lines(job.out / RESPONSES)]
    predicted = read_predictions(job.run / PREDICTIONS)
    levels: list[Mapping[str, Any]] = [{} for _ in answers]
    if scorer is not None:
        exchanges = [Exchange("", a["id"], a["text"], a["response"]) for a in answers]
        levels = scorer.levels(job.out / EMPATHY, exchanges)
    for answer, level in zip(answers, levels, strict=True):
        copied: dict[str, Any] = {name: predicted[answer["id"]][name] for name in LABELS}
        copied |= {name: level.get(name) for name in LEVELS}
        yield Record(
            fold=job.fold,
            row=job.row.name,
            id=answer["id"],
            words=word_count(answer["response"]),
            questions=question_count(answer["response"]),
            cut=bool(level["cut"]) if level else None,
            text=answer["text"],
            response=answer["response"],
            **copied,
        )


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Write all records as CSV, atomically."""
    rows = (dataclasses.astuple(record) for record in records)
    plain = ([int(v) if isinstance(v, bool) else v for v in row] for row in rows)
    write_csv(path, [field.name for field in dataclasses.fields(Record)], plain)
