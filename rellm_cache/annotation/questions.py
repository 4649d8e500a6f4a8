"""Questions and answers about clips, written by the chat LLM (`rellm qa`).

The LLM reads transcript, emotion and dimensions. One request for each type asks it for questions;
equal requests are sent once. It also guesses the emotion from the transcript alone: questions that
can be answered without the voice can then be dropped. A row keeps the LLM's whole text, so new
filters need no new request.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch

from rellm_cache.annotation.endpoint import Endpoint, ask_endpoint
from rellm_cache.annotation.text_replies import Reply, Writing, ask
from rellm_cache.config.qa import QAMode, QASettings, QAType
from rellm_cache.config.schema import LLMConfig, PromptsConfig, Recipe
from rellm_cache.config.specs import digest
from rellm_cache.corpus.manifest import Utterance, manifest_files, read_manifest
from rellm_cache.data.examples import label_ids
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import find_llm, load_chat, load_llm, with_text_files
from rellm_cache.model.answer_likelihoods import answer_log_likelihoods
from rellm_cache.qa.filters import Candidate, reason_to_drop
from rellm_cache.qa.parse import Pair, parse_answer, parse_pairs
from rellm_cache.qa.prompts import Request, describe, has_type, label_source, write_request
from rellm_cache.qa.rows import QARow, questions_path, read_rows, write_rows
from rellm_cache.utils.devices import default_device
from rellm_cache.utils.model_files import weights_digest
from rellm_cache.utils.resumable_table import FINGERPRINT, ResultTable, Row
from rellm_cache.workers.options import WorkerOptions
from rellm_cache.workers.rows import MakeRows, Rows, RowTask, rows_by_workers
from rellm_cache.workers.shards import Output, hold_output

Guess = dict[str, float]  # emotion -> probability


@dataclass(frozen=True)
class QuestionWriter:
    """The LLM that writes questions and guesses emotions from transcripts."""

    config: LLMConfig
    settings: QASettings
    prompts: PromptsConfig
    emotions: tuple[str, ...]
    weights: str  # SHA-256 of the LLM's files
    load: Callable[[], FrozenLLM]  # loads the LLM when the first request needs it
    endpoint: Endpoint | None = None  # a server that writes the replies; the LLM still guesses

    @cached_property
    def fingerprint(self) -> str:
        """Digests of all that replies and guesses depend on, except the prompt."""
        settings, recognition = self.settings, self.prompts.recognition_of(self.emotions)
        seed = settings.seed if settings.temperature else None
        server = {} if self.endpoint is None else {"endpoint": self.endpoint.identity}
        fingerprint = digest(
            server
            | {
                "llm": self.config.identity | {"model": self.weights},
                "written": [settings.system, settings.tokens, settings.temperature, seed],
                "guessed": [self.prompts.plain_system, recognition, self.emotions],
            }
        )[:12]
        return with_text_files(fingerprint, self.config)

    @cached_property
    def llm(self) -> FrozenLLM:
        """The LLM, loaded at its first use."""
        return self.load()

    def results(
        self, prompts: Sequence[str], transcripts: Sequence[str], size: int
    ) -> Iterator[tuple[str, Row]]:
        """Guesses by transcript, then replies by digest of their prompt."""
        for transcript in transcripts:
            yield transcript, {"guess": self._guess(transcript)}
        settings = self.settings
        writing = Writing(settings.system, settings.tokens, settings.temperature, settings.seed)
        for answer in self._replies(prompts, writing, size):
            yield digest(answer.prompt), {"refused": answer.refused} | answer.reply.row

    def _replies(self, prompts: Sequence[str], writing: Writing, size: int) -> Iterator[Reply]:
        if not prompts:
            return iter(())
        if self.endpoint is None:
            return ask(self.llm, prompts, writing, size)
        return ask_endpoint(self.endpoint, load_chat(self.config), prompts, writing, size)

    def _guess(self, transcript: str) -> Guess | None:
        """Probabilities of the emotions given the transcript, calibrated with an empty one.

        None if the transcript is too long for the LLM.

        Log-likelihoods of the labels as answers to the recognition prompt, with the transcript in
        place of the speech, minus those of an empty transcript (Zhao et al. 2021).
        """
        labels = label_ids(self.emotions, self.llm)
        needed = len(self._recognition(transcript)) + max(map(len, labels))
        if not self.llm.has_positions(needed):
            return None
        likely = self._label_log_likelihoods(transcript) - self._prior  # (C,)
        return dict(zip(self.emotions, likely.softmax(0).tolist(), strict=True))

    @cached_property
    def _prior(self) -> torch.Tensor:
        return self._label_log_likelihoods("")

    def _recognition(self, transcript: str) -> tuple[int, ...]:
        """Token ids of the recognition request about a transcript."""
        user = self.prompts.recognition_of(self.emotions).replace("{speech}", transcript)
        return self.llm.chat.text_prompt(self.prompts.plain_system, user)

    def _label_log_likelihoods(self, transcript: str) -> torch.Tensor:
        segment = self.llm.segment(ids=self._recognition(transcript))
        return answer_log_likelihoods(self.llm, [segment], label_ids(self.emotions, self.llm))


@dataclass(frozen=True)
class _Asked:
    """What one result is made of: a prompt to reply to, or a transcript to guess from."""

    text: str
    is_prompt: bool


@dataclass(frozen=True)
class QuestionTask(RowTask):
    """The task of a worker that writes replies and guesses."""

    writer: QuestionWriter

    def load(self, note: Callable[[str], None]) -> MakeRows:
        """Load the LLM."""
        llm = load_llm(self.writer.config, self.device or default_device())
        writer = replace(self.writer, load=lambda: llm)

        def make(asked: Sequence[_Asked]) -> Rows:
            prompts = [one.text for one in asked if one.is_prompt]
            transcripts = [one.text for one in asked if not one.is_prompt]
            yield from writer.results(prompts, transcripts, self.batch_size)

        return make


UNPARSABLE = "no question and answer could be read"


@dataclass(frozen=True)
class QAReport:
    """What `write_questions` wrote for one manifest file."""

    path: Path  # file of the rows
    asked: int  # requests and guesses answered in this call; the others were answered before
    kept: dict[tuple[str, str], int]  # (mode, type) → number of rows for training
    dropped: dict[str, int]  # reason → number of rows
    skipped: dict[str, int]  # reason → number of utterances without questions
    unfinished: str = ""  # why the file was not written: other shards have requests left


def write_questions(
    manifest: Path,
    recipe: Recipe,
    batch_size: int = 64,
    device: torch.device | None = None,
    endpoint: Endpoint | None = None,
    options: WorkerOptions | None = None,
) -> list[QAReport]:
    """Write `<split>.questions.jsonl` next to each manifest file.

    Args:
        batch_size: replies written at a time, or requests sent side by side to an endpoint.
        endpoint: a server that writes the replies; None for the recipe's own LLM, which guesses
            emotions from transcripts in both cases.
        options: workers and shard; None does all work in this process. A shard is one of requests.

    Raises:
        ConfigError: the recipe has no LLM.
        ManifestError: a manifest or its questions cannot be read.
    """
    config = recipe.require_llm()
    weights = weights_digest(find_llm(config))
    load = partial(load_llm, config, device or default_device())
    emotions = recipe.heads.emotions
    writer = QuestionWriter(config, recipe.qa, recipe.prompts, emotions, weights, load, endpoint)
    task = QuestionTask(batch_size, writer, device=device)
    known: dict[str, Row] = {}  # replies and guesses of all files
    reports, options = [], options or WorkerOptions()
    for file in manifest_files(manifest):
        with hold_output(questions_path(file), options.shard) as output:
            reports.append(_write_beside(file, task, known, options, output))
    return reports


@dataclass(frozen=True)
class _Plan:
    """The requests about one utterance, by type; or the reason why there are none."""

    utterance: Utterance
    requests: dict[QAType, Request]
    skipped: str = ""


def _plan(utterances: Sequence[Utterance], settings: QASettings) -> Iterator[_Plan]:
    for utterance in utterances:
        missing = "" if utterance.emotion else "emotion"
        missing = missing if utterance.text.strip() else "transcript"
        if missing:
            yield _Plan(utterance, {}, f"no {missing}")
            continue
        kinds = [k for k in settings.kinds if any(has_type(m, k) for m in settings.modes)]
        yield _Plan(utterance, {k: write_request(utterance, k, settings) for k in kinds})


def _write_beside(
    file: Path,
    task: QuestionTask,
    known: dict[str, Row],
    options: WorkerOptions,
    output: Output,
) -> QAReport:
    out, writer = questions_path(file), task.writer
    plans = list(_plan(read_manifest(file), writer.settings))
    table = ResultTable(out, writer.fingerprint, _finished(out, plans), output.part)
    prompts = {digest(r.user): r.user for item in plans for r in item.requests.values()}
    transcripts = [item.utterance.text for item in plans if "emotion" in item.requests]

    def missing() -> list[str]:
        return [*sorted(table.missing(transcripts, "guess")), *table.missing(prompts, "text")]

    with table:
        for name in missing():
            if name in known and options.takes(name):
                table.add(name, **{k: v for k, v in known[name].items() if k != "id"})
    left = [name for name in missing() if options.takes(name)]
    if left:
        table.fill("Writing", len(left), "replies", _ask(task, left, prompts, options))
    unfinished = output.why_unfinished(table, "request", missing)
    known |= {name: dict(table[name]) for name in table}
    if unfinished:
        return QAReport(out, len(left), {}, {}, {}, unfinished)
    rows = [row for item in plans for row in _rows(item, writer, table)]
    table.finish(rows, write_rows)
    return QAReport(
        path=out,
        asked=len(left),
        kept=dict(Counter((r.mode, r.type) for r in rows if not r.dropped)),
        dropped=dict(Counter(r.dropped for r in rows if r.dropped)),
        skipped=dict(Counter(item.skipped for item in plans if item.skipped)),
    )


def _ask(
    task: QuestionTask, names: Sequence[str], prompts: Mapping[str, str], options: WorkerOptions
) -> Iterator[tuple[str, Row]]:
    """Results of requests: guesses by their transcript, replies by the digest of their prompt."""
    transcripts = [name for name in names if name not in prompts]
    asked = {name: prompts[name] for name in names if name in prompts}
    if not options.has_workers:
        yield from task.writer.results([*asked.values()], transcripts, task.batch_size)
        return
    items = {name: _Asked(name, is_prompt=False) for name in transcripts}
    for name in sorted(asked, key=lambda name: (-len(asked[name]), name)):
        items[name] = _Asked(asked[name], is_prompt=True)
    yield from rows_by_workers(task, items, "request", options)


def _finished(path: Path, plans: Sequence[_Plan]) -> Iterator[Row]:
    """Yield replies and guesses of finished rows that still have the same request."""
    requests = {item.utterance.id: item for item in plans}
    for row in read_rows(path) if path.exists() else ():
        item = requests.get(row.id)
        request = item.requests.get(row.type) if item else None
        if item is None or request is None or row.prompt != digest(request.user):
            continue
        own = {FINGERPRINT: row.fingerprint}
        refused = "" if row.written or row.dropped == UNPARSABLE else row.dropped
        reply = {"text": row.written, "early_stop": row.early_stop, "refused": refused}
        yield {"id": row.prompt, **own, **reply}
        if row.guess is not None or row.type == "emotion":
            yield {"id": item.utterance.text, **own, "guess": row.guess}


def _rows(item: _Plan, writer: QuestionWriter, table: ResultTable) -> Iterator[QARow]:
    """Yield all rows about one utterance; dropped rows have a reason."""
    settings = writer.settings
    for mode in settings.modes:
        for kind, request in item.requests.items():
            if not has_type(mode, kind):
                continue
            row = _unparsed_row(item, mode, kind, writer, table)
            pairs = _pairs(request, row.written)
            if not pairs:
                yield row
            for index, pair in enumerate(pairs[: settings.pairs_each]):
                candidate = Candidate(
                    pair=pair,
                    type=kind,
                    emotion=row.emotion,
                    emotions=tuple({*writer.emotions, row.emotion}),
                    earlier=tuple(p.question for p in pairs[:index]),
                    guess=row.guess,
                    cut=row.early_stop and pair is pairs[-1],
                    answerable=settings.answerable,
                )
                yield replace(
                    row,
                    index=index,
                    question=pair.question,
                    answer=pair.answer,
                    dropped=reason_to_drop(candidate) or "",
                )


def _unparsed_row(
    item: _Plan, mode: QAMode, kind: QAType, writer: QuestionWriter, table: ResultTable
) -> QARow:
    """The row of a reply, before a pair is parsed from it."""
    settings, utterance = writer.settings, item.utterance
    prompt = digest(item.requests[kind].user)
    reply = table[prompt]
    return QARow(
        id=utterance.id,
        mode=mode,
        type=kind,
        index=0,
        question="",
        answer="",
        early_stop=reply["early_stop"],
        metadata=describe(utterance, settings) if mode == "explicit" else "",
        emotion=utterance.emotion or "",  # never None: such an utterance has no requests
        label_source=label_source(utterance, settings),
        vad_source=utterance.vad_source,
        model=writer.config.model,
        weights=writer.weights,
        fingerprint=reply[FINGERPRINT],
        prompt=prompt,
        seed=settings.seed,
        written=reply["text"],
        guess=table[utterance.text]["guess"] if kind == "emotion" else None,
        dropped=reply.get("refused") or UNPARSABLE,
    )


def _pairs(request: Request, text: str) -> list[Pair]:
    if not request.question:
        return parse_pairs(text)
    answer = parse_answer(text)
    return [Pair(request.question, answer)] if answer else []
