"""Judge: an LLM scores the answers of runs to questions about speech (`rellm judge`).

<run>/judged.jsonl      all questions with the run's answers, their scores and fingerprints
<run>/judged.json       mean scores by type, and their correlation with label accuracy

A run gets speech and question, without metadata. The judge, any chat LLM, compares the run's answer
with the reference (`judge_scores`). An answer to an emotion question is right if it names only the
right label. The correlation of score and rightness shows how reliable the judge is.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rellm_cache.annotation.endpoint import Endpoint
from rellm_cache.config.qa import JudgeSettings
from rellm_cache.config.schema import LLMConfig, Recipe
from rellm_cache.config.specs import digest
from rellm_cache.corpus.emotions import SYNONYMS, emotions_in
from rellm_cache.corpus.manifest import read_manifests
from rellm_cache.data.streams import StreamSet
from rellm_cache.errors import ConfigError, ManifestError, RunError
from rellm_cache.evaluation.judge_scores import (
    JudgeRequest,
    ScoreTask,
    judge_identity,
    judge_request,
    scores_by_server,
)
from rellm_cache.evaluation.question_answers import QuestionTask
from rellm_cache.llm.loading import llm_identity, with_text_files
from rellm_cache.metrics.correlation import rank_correlation
from rellm_cache.metrics.intervals import Interval, Summary, summarize
from rellm_cache.qa.rows import QARow, distinct_questions, question_key, read_questions
from rellm_cache.runs.provenance import run_cache
from rellm_cache.runs.shared_models import SharedModels
from rellm_cache.runs.weights import RECIPE, adapter_digest, load_info, run_recipe
from rellm_cache.utils.atomic_files import write_json
from rellm_cache.utils.checksums import recorded
from rellm_cache.utils.console import counted, say
from rellm_cache.utils.devices import default_device
from rellm_cache.utils.json_files import read_utf8
from rellm_cache.utils.resumable_table import FINGERPRINT, ResultTable, Row, read_rows
from rellm_cache.workers.options import WorkerOptions
from rellm_cache.workers.rows import rows_by_workers
from rellm_cache.workers.shards import Output, hold_results, part_name

BATCH = 16
JUDGED = "judged"


@dataclass(frozen=True)
class JudgedAnswer:
    """A run's answer to one question, and its score, 0 to `qa.judge.top`.

    Attributes:
        question, reference: the question and its reference answer.
        right: the answer names the label and no other emotion; None for other types.
        level_share: probability that a server's reply begins with a level; None without a server.
    """

    id: str
    type: str
    question: str
    reference: str
    answer: str
    score: float
    right: bool | None
    level_share: float | None = None


@dataclass(frozen=True)
class JudgeScores:
    """Scores of one run.

    Attributes:
        mode: mode of the questions that the run was trained on, or `none`.
        overall, types: mean score of all answers, and of each type of question.
        accuracy: share of emotion questions answered with the label; None without such questions.
        correlation: Spearman's correlation of score and rightness over emotion questions; None
            without such questions, and NaN if all answers are right or all are wrong.
        dropped: questions without an answer or a score: they are too long for an LLM, or none of a
            server's likeliest first tokens is a level.
        level_share: mean probability that a server's reply begins with a level; None without a
            server. The lower it is, the less the scores tell.
    """

    run: str
    mode: str
    judge: str
    top: int
    overall: Summary
    types: dict[str, Summary]
    accuracy: float | None
    correlation: Interval | None
    dropped: int = 0
    level_share: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Content of `judged.json`; a correlation without a value is null."""
        values = asdict(self)
        if self.correlation is not None and np.isnan(self.correlation.value):
            values["correlation"] = None
        return values


def names_label(answer: str, label: str) -> bool:
    """Whether an answer names the label and no other emotion."""
    return emotions_in(answer, tuple({**SYNONYMS, label: ()})) == [label]


def summarize_judged(
    judged: Sequence[JudgedAnswer], run: str, mode: str, model: str, top: int
) -> JudgeScores:
    """Mean scores by type, accuracy, and correlation of score and rightness."""
    named = [answer for answer in judged if answer.right is not None]
    shares = [answer.level_share for answer in judged if answer.level_share is not None]
    rights = [float(bool(answer.right)) for answer in named]
    types = sorted({answer.type for answer in judged})
    return JudgeScores(
        run=run,
        mode=mode,
        judge=model,
        top=top,
        overall=summarize([answer.score for answer in judged]),
        types={t: summarize([a.score for a in judged if a.type == t]) for t in types},
        accuracy=float(np.mean(rights)) if rights else None,
        correlation=rank_correlation([a.score for a in named], rights) if rights else None,
        level_share=float(np.mean(shares)) if shares else None,
    )


def judge(
    runs: Sequence[Path],
    manifest: Path,
    cache: Path | None = None,
    judging: LLMConfig | Endpoint | None = None,
    batch_size: int = BATCH,
    options: WorkerOptions | None = None,
) -> list[JudgeScores]:
    """Score the answers of runs to the questions of a manifest, one run after another.

    Args:
        cache: root of the stores; None for the cache that each run was trained from.
        judging: the LLM that judges all runs, or a server's; None for the LLM of the first run,
            without LoRA.
        batch_size: questions answered at a time, and requests sent side by side to a server.
        options: workers and shard; None does all work in this process. A shard is one of clips. No
            worker asks a server: this process does.

    Returns:
        The scores of each run, without runs of which other shards have questions left.

    Raises:
        RunError: a run is not finished, or the cache that it was trained from is missing.
        ConfigError: a run has no LLM, or is a text model; or the server gives no likelihoods.
        ManifestError: there are no questions.
        StoreError: the cache lacks clips.
        RellmError: the server refuses a request, or fails again and again.
    """
    known = {u.id for u in read_manifests(manifest)}
    rows = [row for row in distinct_questions(read_questions(manifest)) if row.id in known]
    if not rows:
        raise ManifestError(f"{manifest}: no question was kept; see the reasons `rellm qa` gave")
    recipes = [_speech_recipe(run) for run in runs]
    judging = judging or recipes[0].require_llm()
    if isinstance(judging, LLMConfig):
        judging = replace(judging, lora=None)
    work = _Work(
        manifest, rows, cache, judging, recipes[0].qa.judge, batch_size, options or WorkerOptions()
    )
    with ExitStack() as locks:
        outputs = {
            run: locks.enter_context(hold_results(run / f"{JUDGED}.jsonl", work.options.shard))
            for run in {run.resolve(): None for run in runs}
        }
        # All runs answer before the judge is loaded: memory may be too small for two LLMs.
        tables = [_answer(*pair, work) for pair in zip(runs, recipes, strict=True)]
        for table in tables:
            _score(table, work)
        found = [
            _finish(run, recipe, table, outputs[run.resolve()], work)
            for run, recipe, table in zip(runs, recipes, tables, strict=True)
        ]
    return [scores for scores in found if scores is not None]


@dataclass(frozen=True)
class _Work:
    """What all runs of a call share."""

    manifest: Path
    rows: Sequence[QARow]
    cache: Path | None
    judge: LLMConfig | Endpoint
    settings: JudgeSettings
    batch_size: int
    options: WorkerOptions
    resources: SharedModels = field(default_factory=SharedModels)

    def left(self, table: ResultTable, name: str) -> list[QARow]:
        """The questions of all shards without a field, except dropped ones."""
        missing = {*table.missing((row.key for row in self.rows), name)}
        return [r for r in self.rows if r.key in missing and "dropped" not in table[r.key]]

    def own_left(self, table: ResultTable, name: str) -> list[QARow]:
        """Those of this process."""
        return [row for row in self.left(table, name) if self.options.takes(row.id)]

    def is_finished(self, table: ResultTable) -> bool:
        """Whether all questions are scored or dropped, and both files are written."""
        is_written = _summary(table).is_file() and not table.has_journal
        return is_written and not self.left(table, "score")


def _speech_recipe(run: Path) -> Recipe:
    """The recipe of a finished run; `ConfigError` for a text model."""
    recipe = run_recipe(run)
    if recipe.text is not None:
        raise ConfigError(
            f"{run}: recipe {recipe.name!r} reads text; judge runs of recipes without [text]"
        )
    load_info(run)
    return recipe


def _answer(run: Path, recipe: Recipe, work: _Work) -> ResultTable:
    """Let a run answer the questions of this process from the speech; return its table."""
    root = work.cache or run_cache(run)
    task = QuestionTask(work.batch_size, run, work.manifest, root)
    streams = task.streams(recipe, sorted({row.id for row in work.rows}), work.resources)
    table = _open_table(run, recipe, work, streams)
    left = work.own_left(table, "answer")
    if work.is_finished(table):
        count = counted(len(work.rows), "answer is", "answers are")
        say(f"{run}: nothing to do, {count} judged")
    elif left:
        ordered = task.in_order(left, streams)
        if work.options.has_workers:
            items = {row.key: row for row in ordered}
            found = rows_by_workers(task, items, "question", work.options)
        else:
            found = task.load_with(work.resources)(ordered)
        table.fill("Answering", len(left), "questions", found)
    return table


def _open_table(run: Path, recipe: Recipe, work: _Work, streams: StreamSet) -> ResultTable:
    """Answers and scores of one run, by keys of questions."""
    llm, judge = recipe.require_llm(), work.judge
    audio = [streams.audio_sha256(name) for name in sorted({row.id for row in work.rows})]
    asked = [asdict(row) for row in work.rows]
    task = digest([asked, judge_identity(judge), asdict(work.settings)])
    task = digest([task, audio, llm_identity(llm)])
    made = digest([task, read_utf8(run / RECIPE, RunError, "restore it"), adapter_digest(run)])
    used = [judge, llm] if isinstance(judge, LLMConfig) else [llm]
    path = run / f"{JUDGED}.jsonl"
    finished = (
        {**r, "id": question_key(r["id"], r["type"], r["question"])} for r in read_rows(path)
    )
    part = part_name(work.options.shard)
    return ResultTable(path, with_text_files(made, *used), finished, part)


def _score(table: ResultTable, work: _Work) -> None:
    """Let the judge score the answers of this process."""
    requests = {
        row.key: JudgeRequest(row.key, judge_request(row, table[row.key]["answer"], work.settings))
        for row in work.own_left(table, "score")
    }
    if not requests:
        return
    found: Iterator[tuple[str, Row]]
    if isinstance(work.judge, Endpoint):
        found = scores_by_server(requests, work.settings, work.judge, work.batch_size)
    else:
        task = ScoreTask(1, work.judge, work.settings)
        if work.options.has_workers:
            found = rows_by_workers(task, requests, "answer", work.options)
        else:
            llm = work.resources.llm(work.judge, default_device())
            found = task.load_with(llm)([*requests.values()])
    table.fill("Judging", len(requests), "answers", found)


def _finish(
    run: Path, recipe: Recipe, table: ResultTable, output: Output, work: _Work
) -> JudgeScores | None:
    """Write both files of a run; None if other shards have questions left."""

    def find_missing() -> list[str]:
        return [row.id for row in work.left(table, "score")]

    if unfinished := output.why_unfinished(table, "question", find_missing):
        say(f"{table.path}: {unfinished}")
        return None
    judged = _judged_answers(work.rows, table)
    dropped = {row: reason for row in work.rows if (reason := table[row.key].get("dropped"))}
    for row, reason in dropped.items():
        say(f"{run}: {row.id}: {row.question[:60]!r} left out, {reason}")
    if not judged:
        name, reason = next((row.id, reason) for row, reason in dropped.items())
        raise ManifestError(
            f"{work.manifest}: no question has a score; the first, of {name!r}: {reason}; shorten "
            "the questions, or use another LLM"
        )
    mode = recipe.qa.mode if recipe.losses.qa_lm else "none"
    scores = summarize_judged(judged, str(run), mode, work.judge.model, work.settings.top)
    scores = replace(scores, dropped=len(dropped))
    if not work.is_finished(table):
        content = [asdict(answer) for answer in judged]
        content += [
            {"id": row.id, "type": row.type, "question": row.question, "dropped": reason}
            for row, reason in dropped.items()
        ]
        with recorded(run, f"{JUDGED}.json", f"{JUDGED}.jsonl"):
            write_json(_summary(table), scores.to_json())
            table.finish({**row, FINGERPRINT: _made(row, table)} for row in content)
    return scores


def _made(row: Row, table: ResultTable) -> str:
    return str(table[question_key(row["id"], row["type"], row["question"])][FINGERPRINT])


def _summary(table: ResultTable) -> Path:
    return table.path.with_suffix(".json")


def _judged_answers(rows: Sequence[QARow], table: ResultTable) -> list[JudgedAnswer]:
    judged = []
    for row in rows:
        found = table[row.key]
        if "dropped" in found:
            continue
        answer, share = found["answer"], found.get("level_share")
        right = names_label(answer, row.emotion) if row.type == "emotion" else None
        judged.append(
            JudgedAnswer(
                row.id, row.type, row.question, row.answer, answer, found["score"], right, share
            )
        )
    return judged
