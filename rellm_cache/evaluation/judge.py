"""Judge: an LLM scores the answers of runs to questions about speech (`rellm judge`).

<run>/judged.jsonl      all questions with the run's answers, their scores and fingerprints
<run>/judged.json       mean scores by type, and their correlation with label accuracy

A run gets speech and question, without metadata. The judge, any chat LLM, compares the run's answer
with the reference. The score is the mean of the levels 0 to `qa.judge.top`, weighted by their
likelihoods, so no reply is parsed. The likelihood of a level is that of the whole reply; where a
server judges, it is that of the reply's first token. An answer to an emotion question is right if
it names only the right label. The correlation of score and rightness shows how reliable the judge
is.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rellm_cache.annotation.endpoint import LIKELIEST, Endpoint, FirstTokens, first_tokens
from rellm_cache.config.qa import JudgeSettings
from rellm_cache.config.schema import LLMConfig, Recipe
from rellm_cache.config.specs import digest
from rellm_cache.corpus.emotions import SYNONYMS, emotions_in
from rellm_cache.corpus.manifest import read_manifests
from rellm_cache.data.batch import Example
from rellm_cache.data.loader import BatchLoader
from rellm_cache.data.sampler import ordered_batches
from rellm_cache.data.streams import StreamSet
from rellm_cache.errors import ConfigError, ManifestError, RunError
from rellm_cache.llm.frozen import FrozenLLM, require_llm
from rellm_cache.llm.loading import llm_identity, with_text_files
from rellm_cache.llm.prompts import fill_placeholders, question_prompt
from rellm_cache.metrics.correlation import rank_correlation
from rellm_cache.metrics.intervals import Interval, Summary, summarize
from rellm_cache.model.answer_likelihoods import answer_log_likelihoods
from rellm_cache.qa.rows import QARow, distinct_questions, read_questions
from rellm_cache.runs.provenance import run_cache
from rellm_cache.runs.shared_models import SharedModels
from rellm_cache.runs.weights import RECIPE, adapter_digest, load_info, load_run, run_recipe
from rellm_cache.utils.atomic_files import write_json
from rellm_cache.utils.checksums import recorded
from rellm_cache.utils.console import counted, say
from rellm_cache.utils.devices import default_device
from rellm_cache.utils.json_files import read_utf8
from rellm_cache.utils.locks import hold_folder
from rellm_cache.utils.resumable_table import FINGERPRINT, ResultTable, Row, read_rows

BATCH = 16
JUDGED = "judged"
BLANK = " \n▁Ġ"  # white space in the texts of tokens, as servers write it


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
) -> list[JudgeScores]:
    """Score the answers of runs to the questions of a manifest, one run after another.

    Args:
        cache: root of the stores; None for the cache that each run was trained from.
        judging: the LLM that judges all runs, or a server's; None for the LLM of the first run,
            without LoRA.
        batch_size: questions answered at a time, and requests sent side by side to a server.

    Raises:
        RunError: a run is not finished, or the cache that it was trained from is missing.
        ConfigError: a run has no LLM, or is a text model; or the server gives no likelihoods.
        RellmError: the server refuses a request, or fails again and again.
        ManifestError: there are no questions.
        StoreError: the cache lacks clips.
    """
    known = {u.id for u in read_manifests(manifest)}
    rows = [row for row in distinct_questions(read_questions(manifest)) if row.id in known]
    if not rows:
        raise ManifestError(f"{manifest}: no question was kept; see the reasons `rellm qa` gave")
    recipes = [_speech_recipe(run) for run in runs]
    with ExitStack() as locks:
        for run in {run.resolve(): run for run in runs}.values():
            locks.enter_context(hold_folder(run))
        return _judge(runs, recipes, rows, manifest, cache, judging, batch_size)


def _judge(
    runs: Sequence[Path],
    recipes: Sequence[Recipe],
    rows: Sequence[QARow],
    manifest: Path,
    cache: Path | None,
    judging: LLMConfig | Endpoint | None,
    batch_size: int,
) -> list[JudgeScores]:
    """Score answers in run folders that this command holds; see `judge`."""
    resources = SharedModels()
    judging = judging or recipes[0].require_llm()
    if isinstance(judging, LLMConfig):
        judging = replace(judging, lora=None)
    own = [judging] if isinstance(judging, LLMConfig) else []
    settings = recipes[0].qa.judge
    task = digest([[asdict(row) for row in rows], _identity(judging), asdict(settings)])
    ids = sorted({row.id for row in rows})
    tables = []
    # All runs answer before the judge is loaded: memory may be too small for two LLMs.
    for run, recipe in zip(runs, recipes, strict=True):
        root = cache or run_cache(run)
        streams = resources.streams(recipe.encoders, root)
        command = f"rellm extract {manifest} --recipe {run}/recipe.toml --cache {root}"
        streams.require(ids, command)
        audio = [streams.audio_sha256(i) for i in ids]
        llm = recipe.require_llm()
        table = _open_table(run, digest([task, audio, llm_identity(llm)]), [*own, llm])
        if _is_finished(table, rows):
            say(f"{run}: nothing to do, {counted(len(rows), 'answer is', 'answers are')} judged")
        else:
            _answer(run, rows, streams, table, resources, batch_size)
        tables.append(table)
    scores = []
    for run, recipe, table in zip(runs, recipes, tables, strict=True):
        left = _left(rows, table, "score")
        if left and isinstance(judging, Endpoint):
            found = _scores_by_server(left, table, settings, judging, batch_size)
            table.fill("Judging", len(left), "answers", found)
        elif left and isinstance(judging, LLMConfig):
            model = resources.llm(judging, default_device())
            table.fill("Judging", len(left), "answers", _scores(left, table, settings, model))
        judged = _judged_answers(rows, table)
        dropped = {row: reason for row in rows if (reason := table[_key_of(row)].get("dropped"))}
        for row, reason in dropped.items():
            say(f"{run}: {row.id}: {row.question[:60]!r} left out, {reason}")
        if not judged:
            name, reason = next((row.id, reason) for row, reason in dropped.items())
            raise ManifestError(
                f"{manifest}: no question has a score; the first, of {name!r}: {reason}; shorten "
                "the questions, or use another LLM"
            )
        mode = recipe.qa.mode if recipe.losses.qa_lm else "none"
        summary = summarize_judged(judged, str(run), mode, judging.model, settings.top)
        summary = replace(summary, dropped=len(dropped))
        if not _is_finished(table, rows):
            content = [asdict(answer) for answer in judged]
            content += [
                {"id": row.id, "type": row.type, "question": row.question, "dropped": reason}
                for row, reason in dropped.items()
            ]
            with recorded(run, f"{JUDGED}.json", f"{JUDGED}.jsonl"):
                write_json(_summary(table), summary.to_json())
                table.finish({**row, FINGERPRINT: _made(row, table)} for row in content)
        scores.append(summary)
    return scores


def _speech_recipe(run: Path) -> Recipe:
    """The recipe of a finished run; `ConfigError` for a text model."""
    recipe = run_recipe(run)
    if recipe.text is not None:
        raise ConfigError(
            f"{run}: recipe {recipe.name!r} reads text; judge runs of recipes without [text]"
        )
    load_info(run)
    return recipe


def _open_table(run: Path, task: str, llms: Sequence[LLMConfig]) -> ResultTable:
    """Answers and scores of one run, by keys of questions."""
    made = digest([task, read_utf8(run / RECIPE, RunError, "restore it"), adapter_digest(run)])
    made = with_text_files(made, *llms)
    path = run / f"{JUDGED}.jsonl"
    finished = ({**r, "id": _key(r["id"], r["type"], r["question"])} for r in read_rows(path))
    return ResultTable(path, made, finished)


def _is_finished(table: ResultTable, rows: Sequence[QARow]) -> bool:
    """Whether all questions are scored or dropped, and both files are written."""
    return not _left(rows, table, "score") and _summary(table).is_file() and not table.has_journal


def _summary(table: ResultTable) -> Path:
    return table.path.with_suffix(".json")


def _left(rows: Sequence[QARow], table: ResultTable, field: str) -> list[QARow]:
    """The questions without a field, except dropped ones."""
    missing = {*table.missing(map(_key_of, rows), field)}
    keys = ((row, _key_of(row)) for row in rows)
    return [row for row, key in keys if key in missing and "dropped" not in table[key]]


def _key(utterance_id: str, kind: str, question: str) -> str:
    return digest([utterance_id, kind, question])


def _made(row: Row, table: ResultTable) -> str:
    return str(table[_key(row["id"], row["type"], row["question"])][FINGERPRINT])


def _key_of(row: QARow) -> str:
    return _key(row.id, row.type, row.question)


@torch.inference_mode()
def _answer(
    run: Path,
    rows: Sequence[QARow],
    streams: StreamSet,
    table: ResultTable,
    resources: SharedModels,
    batch_size: int,
) -> None:
    """Let a run answer all questions from the speech."""
    by_clip: dict[str, list[QARow]] = {}
    missing = _left(rows, table, "answer")
    for row in missing:
        by_clip.setdefault(row.id, []).append(row)
    if not by_clip:
        return
    device = default_device()
    recipe, model = load_run(run, device, resources.llm)
    llm = require_llm(model.llm)
    loader = BatchLoader([Example(clip) for clip in by_clip], streams, device)
    plan = ordered_batches(loader.lengths, batch_size)

    before, most = len(model.prompts["qa_lm"].before), recipe.qa.judge.answer_tokens

    def answers() -> Iterator[tuple[str, Row]]:
        for batch in loader.batches(plan, reuse_memory=True):
            speech = model.speech(batch.to(device))
            asked = [(i, row) for i, clip in enumerate(batch.ids) for row in by_clip[clip]]
            for start in range(0, len(asked), batch_size):
                part, questions = [], []
                for i, row in asked[start : start + batch_size]:
                    ids = question_prompt(llm.chat, recipe.prompts, recipe.qa, row.question).after
                    needed = before + speech.counts[i] + len(ids) + most
                    if llm.has_positions(needed):
                        part.append(row)
                        questions.append((i, ids))
                    else:
                        yield _key_of(row), {"dropped": _too_long("question", needed, llm)}
                replies = model.question_answers(speech, questions, most) if part else []
                for row, reply in zip(part, replies, strict=True):
                    yield _key_of(row), {"answer": reply.text}

    table.fill("Answering", len(missing), "questions", answers())


def _identity(judge: LLMConfig | Endpoint) -> dict[str, Any]:
    """What decides a judge's scores besides the request."""
    if isinstance(judge, Endpoint):
        return {"endpoint": judge.identity, "first_tokens": LIKELIEST}
    return llm_identity(judge)


def _scores(
    rows: Sequence[QARow], table: ResultTable, settings: JudgeSettings, llm: FrozenLLM
) -> Iterator[tuple[str, Row]]:
    """Keys of rows, and their scores by an LLM."""
    end = llm.chat.end_ids
    levels = [llm.chat.ids(str(number)) + end for number in range(settings.top + 1)]
    values = torch.arange(len(levels), device=llm.device, dtype=torch.float32)
    for row in rows:
        key = _key_of(row)
        request = judge_request(row, table[key]["answer"], settings)
        ids = llm.chat.text_prompt(settings.system, request)
        needed = len(ids) + max(map(len, levels))
        if not llm.has_positions(needed):
            yield key, {"dropped": _too_long("request to the judge", needed, llm)}
            continue
        likely = answer_log_likelihoods(llm, [llm.segment(ids=ids)], levels)  # (top + 1,)
        yield key, {"score": float(likely.softmax(0) @ values)}


def _scores_by_server(
    rows: Sequence[QARow],
    table: ResultTable,
    settings: JudgeSettings,
    endpoint: Endpoint,
    at_once: int,
) -> Iterator[tuple[str, Row]]:
    """Keys of rows, and their scores by a server; equal requests are sent once."""
    keys: dict[str, list[str]] = {}
    for row in rows:
        key = _key_of(row)
        keys.setdefault(judge_request(row, table[key]["answer"], settings), []).append(key)
    for request, tokens in first_tokens(endpoint, keys, settings.system, at_once):
        for key in keys[request]:
            yield key, score_first_tokens(tokens, settings.top)


def score_first_tokens(tokens: FirstTokens, top: int) -> Row:
    """The mean of the levels that are first tokens, weighted by likelihood, and their share.

    A row without a level is dropped.
    """
    levels = {str(number): float(number) for number in range(top + 1)}
    shares = [(levels.get(text.strip(BLANK)), np.exp(likely)) for text, likely in tokens]
    known = [(level, share) for level, share in shares if level is not None]
    total = float(sum(share for _, share in known))
    if not total:
        likeliest = repr(tokens[0][0]) if tokens else "none"
        return {
            "dropped": f"none of the {len(tokens)} likeliest first tokens of the server is a level "
            f"from 0 to {top}; the likeliest is {likeliest}"
        }
    mean = float(sum(level * share for level, share in known)) / total
    return {"score": mean, "level_share": total}


def _too_long(what: str, needed: int, llm: FrozenLLM) -> str:
    return f"the {what} takes {needed} tokens, more than {llm.config.model} supports"


def judge_request(row: QARow, answer: str, settings: JudgeSettings) -> str:
    """The user's turn for the judge about one answer."""
    values = {
        "top": str(settings.top),
        "question": row.question,
        "reference": row.answer,
        "answer": answer,
    }
    return fill_placeholders(settings.request, values)


def _judged_answers(rows: Sequence[QARow], table: ResultTable) -> list[JudgedAnswer]:
    judged = []
    for row in rows:
        if "dropped" in table[_key_of(row)]:
            continue
        found = table[_key_of(row)]
        answer, share = found["answer"], found.get("level_share")
        right = names_label(answer, row.emotion) if row.type == "emotion" else None
        judged.append(
            JudgedAnswer(
                row.id, row.type, row.question, row.answer, answer, found["score"], right, share
            )
        )
    return judged
