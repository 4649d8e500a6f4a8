"""qa. In: a manifest with transcripts and emotions. Out: questions and answers beside it, in rows.

A text LLM reads transcript, emotion and dimensions and writes what a listener could be asked, one
request for each type. Equal requests are asked once. Before, it says which emotion it would guess
from the transcript alone, so that questions that need no voice can be dropped. What is kept in a
row is enough to read and filter it again: another filter asks nothing anew.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from rellm_cache.annotation.text_replies import Writing, ask
from rellm_cache.config.qa import QAMode, QAType
from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import digest
from rellm_cache.corpus.manifest import Utterance, manifest_files, read_manifest
from rellm_cache.data.examples import label_ids
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import find_llm, load_llm
from rellm_cache.model.answer_likelihoods import answer_log_likelihoods
from rellm_cache.qa.filters import Candidate, reason_to_drop
from rellm_cache.qa.parse import Pair, parse_answer, parse_pairs
from rellm_cache.qa.prompts import Request, describe, has_type, label_source, write_request
from rellm_cache.qa.rows import QARow, questions_path, read_rows, write_rows
from rellm_cache.utils.console import progress
from rellm_cache.utils.devices import default_device
from rellm_cache.utils.model_files import weights_digest
from rellm_cache.utils.result_table import FINGERPRINT, ResultTable, Row

Guess = dict[str, float]  # emotion -> probability


def writer_fingerprint(recipe: Recipe, weights: str) -> str:
    """What decides a reply besides its prompt, in 12 hex digits."""
    settings, prompts = recipe.qa, recipe.prompts
    seed = settings.seed if settings.temperature else None
    return digest(
        {
            "llm": recipe.require_llm().identity | {"model": weights},
            "written": [settings.system, settings.tokens, settings.temperature, seed],
            "guessed": [
                prompts.plain_system,
                prompts.recognition_of(recipe.heads.emotions),
                recipe.heads.emotions,
            ],
        }
    )[:12]


@dataclass(frozen=True)
class QuestionWriter:
    """The LLM that writes questions, and guesses emotions from transcripts."""

    recipe: Recipe
    weights: str
    load: Callable[[], FrozenLLM]

    @cached_property
    def fingerprint(self) -> str:
        """Digest of all that decides what is written but the prompt."""
        return writer_fingerprint(self.recipe, self.weights)

    @cached_property
    def llm(self) -> FrozenLLM:
        """The LLM, loaded when something is to be asked."""
        return self.load()

    def ask(
        self, prompts: Sequence[str], transcripts: Sequence[str], size: int, table: ResultTable
    ) -> int:
        """Add replies to prompts, by their digests, and guesses from transcripts; how many."""
        by_digest = {digest(prompt): prompt for prompt in prompts}
        unknown = [by_digest[key] for key in table.missing(by_digest, "text")]
        unguessed = sorted(table.missing(transcripts, "guess"))
        total = len(unknown) + len(unguessed)
        if not total:
            return 0
        settings = self.recipe.qa
        writing = Writing(settings.system, settings.tokens, settings.temperature, settings.seed)
        with progress("Writing", total, "replies") as tick, table:
            for transcript in unguessed:
                table.add(transcript, guess=self._guess(transcript))
                tick()
            for answer in ask(self.llm, unknown, writing, size):
                table.add(digest(answer.prompt), **asdict(answer.reply))
                tick()
        return total

    def _guess(self, transcript: str) -> Guess:
        """Probabilities of the emotions by what the transcript adds to the LLM's own leaning.

        Likelihoods of the labels as answers to the request for recognition, the transcript in the
        place of the speech, over those with nothing in its place (Zhao et al. 2021).
        """
        likely = self._label_likelihoods(transcript) - self._leaning  # (C,)
        return dict(zip(self.recipe.heads.emotions, likely.softmax(0).tolist(), strict=True))

    @cached_property
    def _leaning(self) -> torch.Tensor:
        """(C,) what the LLM says of no transcript at all."""
        return self._label_likelihoods("")

    def _label_likelihoods(self, transcript: str) -> torch.Tensor:
        prompts, llm = self.recipe.prompts, self.llm
        asked = prompts.recognition_of(self.recipe.heads.emotions)
        user = asked.replace("{speech}", transcript)
        request = llm.chat.text_prompt(prompts.plain_system, user)
        return answer_log_likelihoods(
            llm, [llm.segment(ids=request)], label_ids(self.recipe.heads.emotions, llm)
        )


UNREADABLE = "no question and answer could be read"


@dataclass(frozen=True)
class QAReport:
    """What was written for one manifest file.

    Attributes:
        path: of the rows.
        asked: requests and guesses that the LLM answered now; the rest were known.
        kept: (mode, type) → rows for training.
        dropped: reason → rows.
        skipped: reason → utterances that nothing can be asked about.
    """

    path: Path
    asked: int
    kept: dict[tuple[str, str], int]
    dropped: dict[str, int]
    skipped: dict[str, int]


def write_questions(
    manifest: Path, recipe: Recipe, batch_size: int = 16, device: torch.device | None = None
) -> list[QAReport]:
    """Write `<split>.questions.jsonl` beside each manifest file.

    Raises:
        ConfigError: the recipe has no LLM.
        ManifestError: a manifest, or questions there, cannot be read.
    """
    config = recipe.require_llm()
    weights = weights_digest(find_llm(config))
    writer = QuestionWriter(recipe, weights, lambda: load_llm(config, device or default_device()))
    known: dict[str, Row] = {}  # replies and guesses for every file: nothing is asked twice
    return [_write_beside(file, writer, batch_size, known) for file in manifest_files(manifest)]


@dataclass(frozen=True)
class _Work:
    """The requests about one utterance, by type; or why there are none."""

    utterance: Utterance
    requests: dict[QAType, Request]
    skipped: str = ""


def _plan(utterances: Sequence[Utterance], recipe: Recipe) -> Iterator[_Work]:
    settings = recipe.qa
    for utterance in utterances:
        missing = "transcript" if not utterance.text else "emotion" if not utterance.emotion else ""
        if missing:
            yield _Work(utterance, {}, f"no {missing}")
            continue
        kinds = [k for k in settings.kinds if any(has_type(m, k) for m in settings.modes)]
        yield _Work(utterance, {k: write_request(utterance, k, settings) for k in kinds})


def _write_beside(
    file: Path, writer: QuestionWriter, batch_size: int, known: dict[str, Row]
) -> QAReport:
    out = questions_path(file)
    work = list(_plan(read_manifest(file), writer.recipe))
    table = ResultTable(out, writer.fingerprint, [*known.values(), *_finished(out, work)])
    prompts = [r.user for item in work for r in item.requests.values()]
    transcripts = [item.utterance.text for item in work if "emotion" in item.requests]
    asked = writer.ask(prompts, transcripts, batch_size, table)
    rows = [row for item in work for row in _rows(item, writer, table)]
    table.finish(rows, write_rows)
    known |= {name: dict(table[name]) for name in table}
    return QAReport(
        path=out,
        asked=asked,
        kept=dict(Counter((r.mode, r.type) for r in rows if not r.dropped)),
        dropped=dict(Counter(r.dropped for r in rows if r.dropped)),
        skipped=dict(Counter(item.skipped for item in work if item.skipped)),
    )


def _finished(path: Path, work: Sequence[_Work]) -> Iterator[Row]:
    """Yield what finished rows hold of requests that are still the same."""
    requests = {item.utterance.id: item for item in work}
    for row in read_rows(path) if path.exists() else ():
        item = requests.get(row.id)
        request = item.requests.get(row.type) if item else None
        if item is None or request is None or row.prompt != digest(request.user):
            continue
        own = {FINGERPRINT: row.fingerprint}
        yield {"id": row.prompt, **own, "text": row.written, "early_stop": row.early_stop}
        if row.guess is not None:
            yield {"id": item.utterance.text, **own, "guess": row.guess}


def _rows(item: _Work, writer: QuestionWriter, table: ResultTable) -> Iterator[QARow]:
    """Every row about one utterance, those to be dropped with their reason."""
    settings = writer.recipe.qa
    for mode in settings.modes:
        for kind, request in item.requests.items():
            if not has_type(mode, kind):
                continue
            row = _unread_row(item, mode, kind, writer, table)
            pairs = _pairs(request, row.written)
            if not pairs:
                yield row
            for index, pair in enumerate(pairs[: settings.pairs_each]):
                candidate = Candidate(
                    pair=pair,
                    type=kind,
                    emotion=row.emotion,
                    emotions=tuple({*writer.recipe.heads.emotions, row.emotion}),
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


def _unread_row(
    item: _Work, mode: QAMode, kind: QAType, writer: QuestionWriter, table: ResultTable
) -> QARow:
    """The row of a reply before a pair is read from it."""
    settings, utterance = writer.recipe.qa, item.utterance
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
        emotion=utterance.emotion or "",  # there is one, or there were no requests
        label_source=label_source(utterance, settings),
        vad_source=utterance.vad_source,
        model=writer.recipe.require_llm().model,
        weights=writer.weights,
        fingerprint=writer.fingerprint,
        prompt=prompt,
        seed=settings.seed,
        written=reply["text"],
        guess=table[utterance.text]["guess"] if kind == "emotion" else None,
        dropped=UNREADABLE,
    )


def _pairs(request: Request, text: str) -> list[Pair]:
    if not request.question:
        return parse_pairs(text)
    answer = parse_answer(text)
    return [Pair(request.question, answer)] if answer else []
