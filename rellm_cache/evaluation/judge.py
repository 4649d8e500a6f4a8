"""judge. In: trained runs and a manifest with questions. Out: how well each answers, by an LLM.

<run>/judged.jsonl      every question with the run's answer, its score, what both were made from
<run>/judged.json       mean scores by type, and what label accuracy says to them

Each run hears the speech and the question, no metadata. A judge, any chat LLM, then scores the
answer against the row's own: the mean of the levels 0 to `qa.judge.top` by how likely it finds each
as its answer, so that no reply has to be parsed. Where the question is for the emotion, an answer
is right if it names the label; the judge is worth as much as it agrees with that.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rellm_cache.config.qa import JudgeSettings
from rellm_cache.config.schema import LLMConfig, Recipe
from rellm_cache.config.specs import digest
from rellm_cache.corpus.emotions import SYNONYMS, emotions_in
from rellm_cache.corpus.manifest import read_manifests
from rellm_cache.data.batch import Example
from rellm_cache.data.loader import BatchLoader
from rellm_cache.data.sampler import ordered_batches
from rellm_cache.data.streams import StreamSet
from rellm_cache.errors import ConfigError, ManifestError
from rellm_cache.llm.frozen import FrozenLLM, require_llm
from rellm_cache.llm.loading import llm_identity
from rellm_cache.llm.prompts import question_prompt
from rellm_cache.metrics.intervals import Interval, Summary, summarize
from rellm_cache.metrics.regression import rank_correlation
from rellm_cache.model.answer_likelihoods import answer_log_likelihoods
from rellm_cache.qa.rows import QARow, distinct_questions, read_questions
from rellm_cache.runs.shared_models import Resources
from rellm_cache.runs.weights import RECIPE, load_info, load_run, run_recipe, trained_digest
from rellm_cache.utils.atomic_files import write_json
from rellm_cache.utils.console import counted, progress, say
from rellm_cache.utils.devices import default_device
from rellm_cache.utils.result_table import FINGERPRINT, ResultTable, read_rows

BATCH = 16
JUDGED = "judged"


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


def summarize_judged(
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
        overall=summarize([answer.score for answer in judged]),
        types={t: summarize([a.score for a in judged if a.type == t]) for t in types},
        accuracy=float(np.mean(rights)) if rights else None,
        correlation=rank_correlation([a.score for a in named], rights) if rights else None,
    )


def judge(
    runs: Sequence[Path],
    manifest: Path,
    cache: Path,
    judging: LLMConfig | None = None,
    batch_size: int = BATCH,
) -> list[JudgeScores]:
    """Score the answers of runs to the questions beside a manifest; each run in its turn.

    Args:
        judging: the LLM that judges; None for the first run's own, without LoRA, so that one judge
            scores all runs.

    Raises:
        RunError: a run is not a finished one.
        ConfigError: a run has no LLM, or its model reads.
        ManifestError: there are no questions.
        StoreError: clips are absent from the cache.
    """
    known = {u.id for u in read_manifests(manifest)}
    rows = [row for row in distinct_questions(read_questions(manifest)) if row.id in known]
    if not rows:
        raise ManifestError(f"{manifest}: no question was kept; see the reasons `rellm qa` gave")
    resources = Resources()
    recipes = [_recipe_of(run) for run in runs]
    judge_config = replace(judging or recipes[0].require_llm(), lora=None)
    settings = recipes[0].qa.judge
    asked = digest([[asdict(row) for row in rows], llm_identity(judge_config), asdict(settings)])
    tables = []
    ids = sorted({row.id for row in rows})
    # All of them before the judge, which may take the LLM's place in memory.
    for run, recipe in zip(runs, recipes, strict=True):
        streams = resources.streams(recipe, cache)
        command = f"rellm extract {manifest} --recipe {run}/recipe.toml --cache {cache}"
        streams.require(ids, command)
        heard = [streams.audio_sha256(i) for i in ids]
        table = _open_table(run, digest([asked, heard, llm_identity(recipe.require_llm())]))
        if _is_finished(table, rows):
            say(f"{run}: nothing to do, {counted(len(rows), 'answer is', 'answers are')} judged")
        else:
            _answer(run, rows, streams, table, resources, batch_size)
        tables.append(table)
    scores = []
    for run, recipe, table in zip(runs, recipes, tables, strict=True):
        _score(rows, table, settings, lambda: resources.llm(judge_config, default_device()))
        judged = _judged(rows, table)
        mode = recipe.qa.mode if recipe.losses.qa_lm else "none"
        found = summarize_judged(judged, str(run), mode, judge_config.model, settings.top)
        if not _is_finished(table, rows):
            made = {FINGERPRINT: table[_key_of(rows[0])][FINGERPRINT]}
            write_json(_summary(table), found.to_json())
            table.finish({**asdict(answer), **made} for answer in judged)
        scores.append(found)
    return scores


def _recipe_of(run: Path) -> Recipe:
    """The recipe of a finished run that hears."""
    recipe = run_recipe(run)
    if recipe.text is not None:
        raise ConfigError(
            f"{run}: recipe {recipe.name!r} reads text; judge runs of recipes that hear speech"
        )
    load_info(run)
    return recipe


def _open_table(run: Path, asked: str) -> ResultTable:
    """Answers and scores of one run, by the keys of questions."""
    made = digest([asked, (run / RECIPE).read_text("utf-8"), trained_digest(run)])
    path = run / f"{JUDGED}.jsonl"
    finished = ({**r, "id": _key(r["id"], r["type"], r["question"])} for r in read_rows(path))
    return ResultTable(path, made, finished)


def _is_finished(table: ResultTable, rows: Sequence[QARow]) -> bool:
    """Whether every question is answered and scored, and the run's folder has it all."""
    missing = table.missing(map(_key_of, rows), "score")
    return not missing and _summary(table).is_file() and not table.journal.exists()


def _summary(table: ResultTable) -> Path:
    return table.path.with_suffix(".json")


def _key(utterance_id: str, kind: str, question: str) -> str:
    return digest([utterance_id, kind, question])


def _key_of(row: QARow) -> str:
    return _key(row.id, row.type, row.question)


@torch.inference_mode()
def _answer(
    run: Path,
    rows: Sequence[QARow],
    streams: StreamSet,
    table: ResultTable,
    resources: Resources,
    batch_size: int,
) -> None:
    """Let a run answer every question from the speech."""
    by_clip: dict[str, list[QARow]] = {}
    missing = {*table.missing(map(_key_of, rows), "answer")}
    for row in rows:
        if _key_of(row) in missing:
            by_clip.setdefault(row.id, []).append(row)
    if not by_clip:
        return
    device = default_device()
    recipe, model = load_run(run, device, resources.llm)
    llm = require_llm(model.llm)
    loader = BatchLoader([Example(clip) for clip in by_clip], streams, device)
    plan = ordered_batches(loader.lengths, batch_size)
    total = sum(map(len, by_clip.values()))
    with progress("Answering", total, "questions") as tick, table:
        for batch in loader.batches(plan, reuse_memory=True):
            speech = model.speech(batch.to(device))
            asked = [(i, row) for i, clip in enumerate(batch.ids) for row in by_clip[clip]]
            for start in range(0, len(asked), batch_size):
                part = asked[start : start + batch_size]
                questions = [
                    (i, question_prompt(llm.chat, recipe.prompts, recipe.qa, r.question).after)
                    for i, r in part
                ]
                replies = model.question_answers(speech, questions, recipe.qa.judge.answer_tokens)
                for (_, row), reply in zip(part, replies, strict=True):
                    table.add(_key_of(row), answer=reply.text)
                tick(len(part))


def _score(
    rows: Sequence[QARow],
    table: ResultTable,
    settings: JudgeSettings,
    load: Callable[[], FrozenLLM],
) -> None:
    """Let the judge score every answer of a run."""
    missing = {*table.missing(map(_key_of, rows), "score")}
    left = [row for row in rows if _key_of(row) in missing]
    if not left:
        return
    llm = load()
    end = llm.chat.ids(llm.chat.end_text)
    levels = [llm.chat.ids(str(number)) + end for number in range(settings.top + 1)]
    values = torch.arange(len(levels), device=llm.device, dtype=torch.float32)
    with progress("Judging", len(left), "answers") as tick, table:
        for row in left:
            request = judge_request(row, table[_key_of(row)]["answer"], settings)
            ids = llm.chat.text_prompt(settings.system, request)
            likely = answer_log_likelihoods(llm, [llm.segment(ids=ids)], levels)  # (top + 1,)
            shares = likely.softmax(0)
            table.add(_key_of(row), score=float(shares @ values))
            tick()


def judge_request(row: QARow, answer: str, settings: JudgeSettings) -> str:
    """What the judge is asked about one answer."""
    filled = {
        "top": str(settings.top),
        "question": row.question,
        "reference": row.answer,
        "answer": answer,
    }
    marks = re.compile("{(" + "|".join(filled) + ")}")
    return marks.sub(lambda mark: filled[mark[1]], settings.request)  # at once: texts hold braces


def _judged(rows: Sequence[QARow], table: ResultTable) -> list[JudgedAnswer]:
    """Each question with the run's answer and its score."""
    judged = []
    for row in rows:
        answer, score = table[_key_of(row)]["answer"], table[_key_of(row)]["score"]
        right = names_label(answer, row.emotion) if row.type == "emotion" else None
        judged.append(
            JudgedAnswer(row.id, row.type, row.question, row.answer, answer, score, right)
        )
    return judged
