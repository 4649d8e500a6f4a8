"""Predictions and answers of a run for the utterances of a manifest, kept in `evaluated.jsonl`.

Each row has the requested values: the emotion by head and LLM, the dimensions, and the answer with
its empathy levels. A row with the id "" has the losses of all utterances together.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property, reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rellm_cache.config.specs import digest
from rellm_cache.corpus.clip_limits import read_limits
from rellm_cache.corpus.dimensions import DIMENSIONS
from rellm_cache.corpus.manifest import Utterance, read_manifests
from rellm_cache.corpus.text_files import read_csv
from rellm_cache.data.examples import data_digest
from rellm_cache.data.sampler import ordered_batches
from rellm_cache.data.streams import StreamSet
from rellm_cache.empathy.scorer_folder import CARD
from rellm_cache.errors import ManifestError
from rellm_cache.evaluation.empathy import (
    EmpathyScores,
    ReplyLevels,
    score_answers,
    summarize_empathy,
)
from rellm_cache.evaluation.prediction_task import (
    AskedBatch,
    AskedClip,
    PredictionTask,
    answer_field,
    head_fields,
    label_fields,
    likelihood_field,
    sums_of,
)
from rellm_cache.inference.answer_fingerprints import DIGITS, answer_fingerprints
from rellm_cache.inference.emotion_recognition import Label
from rellm_cache.inference.recognition_requests import Likelihoods, Requests
from rellm_cache.inference.responders import (
    Generation,
    SpeechResponder,
    TextResponder,
    load_responder,
)
from rellm_cache.llm.loading import with_text_files
from rellm_cache.runs.shared_models import SharedModels
from rellm_cache.runs.weights import run_recipe
from rellm_cache.training.validation import LossSums
from rellm_cache.utils.checksums import require_intact
from rellm_cache.utils.console import progress
from rellm_cache.utils.regular_files import file_digest
from rellm_cache.utils.resumable_table import FINGERPRINT, ResultTable, fingerprint_of
from rellm_cache.workers.options import Shard, WorkerOptions
from rellm_cache.workers.rows import rows_by_workers
from rellm_cache.workers.shards import Output, part_name

EVALUATED, PREDICTIONS = "evaluated.jsonl", "predictions.csv"
ALL = ""  # id of the row for all utterances together
BATCH_ID = "batch of clips "  # before the digest of a batch, in the id of its row in a journal
KL = "rater_kl"  # among the losses: mean divergence of the category head from raters
BATCH = 16  # clips
# Fields of a row in the file, in whatever order they were made.
FIELDS = ("id", FINGERPRINT, "head", "dimensions", "losses", "dropped", "likely", "named",
          "likelihoods", "empty_likelihoods", "answer", "empathy")  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """What the LLM predicts besides the likeliest label.

    Attributes:
        in_words: an answer to each emotion in words.
        orders, calibrate: those of `Requests`.
    """

    in_words: bool
    orders: int = 1
    calibrate: bool = False

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of `Label` that are wanted."""
        return ("likely", "named") if self.in_words else ("likely",)


@dataclass(frozen=True)
class EmotionPredictions:
    """Predicted emotions of utterances, in their order.

    Attributes:
        head: emotions by the category head; None for a text model, which has no heads.
        dimensions: (N, 3) float32 arousal, dominance, valence by the dimension head, or None.
        in_words: whether the LLM's labels have greedy answers.
        losses: mean of each loss, and `KL` if utterances have shares of raters.
        likelihoods: those of the LLM\'s labels under several requests; None under one alone.
    """

    head: list[str] | None
    dimensions: NDArray[np.float32] | None
    llm: list[Label] | None
    in_words: bool
    losses: dict[str, float]
    likelihoods: Likelihoods | None = None


class PredictionLog:
    """Predictions and answers of a finished run, computed once and kept in the folder `out`.

    Raises:
        RunError: `run` is not a finished run.
        ManifestError: the manifest cannot be read, or a text model's utterance has no transcript.
        StoreError: the cache lacks clips.
        JournalError: `evaluated.jsonl` cannot be read.
    """

    def __init__(
        self,
        run: Path,
        manifest: Path,
        cache: Path,
        out: Path,
        resources: SharedModels,
        shard: Shard | None = None,
    ) -> None:
        self._run, self._manifest, self._cache = run, manifest, cache
        self._resources = resources
        self.utterances = read_manifests(manifest)
        self.recipe = run_recipe(run)
        made = answer_fingerprints(run, self.recipe, self.utterances, cache, self._load_streams)
        if self.recipe.text is None:  # losses depend on labels and responses too
            streams = self._load_streams(self.utterances)
            learned = data_digest([self.utterances], self.recipe.losses, {}, streams)
            first = {name: value.partition("+")[0] for name, value in made.items()}
            texts = with_text_files("", self.recipe.used_llm) if self.recipe.used_llm else ""
            made[ALL] = digest([first, learned])[:DIGITS] + texts
        self._made = made
        self._plan = [*self._plan_batches(shard)]
        batches = {name: made[ALL] for _, name, _ in self._plan if ALL in made}
        self._table = ResultTable(out / EVALUATED, made | batches, part=part_name(shard))
        self.dropped: dict[str, str] = {}

    def predict_rows(
        self, wanted: Wanted, answered: Collection[str], options: WorkerOptions
    ) -> None:
        """Predict what is missing for the clips of this shard, in the batches of one process.

        Args:
            answered: ids of the clips that are answered.
        """
        missing = {batch.id: batch for batch in self._missing(wanted, answered, options.shard)}
        if not missing:
            return
        requests = self._requests(wanted)
        task = PredictionTask(
            1,
            self._run,
            self._manifest,
            self._cache,
            BATCH,
            wanted.fields,
            requests,
            _texts_digest(requests),
        )
        if options.has_workers:
            found = rows_by_workers(task, missing, "batch", options)
        else:
            found = task.made_by(self._responder)([*missing.values()])
        clips = sum(len(batch.clips) for batch in missing.values())
        with progress("Predicting", clips, "clips") as tick, self._table, closing(found):
            for name, rows in found:
                for row, fields in rows:
                    self._table.add(row, **fields)
                tick(len(missing[name].clips))

    def join(self, wanted: Wanted, answered: Collection[str], output: Output) -> str:
        """Join what all shards have predicted; return why other shards must go on, if so."""

        def find_missing() -> list[str]:
            missing = self._missing(wanted, answered)
            return [clip.utterance.id for batch in missing for clip in batch.clips]

        unfinished = output.why_unfinished(self._table, "clip", find_missing)
        if not unfinished and self._lacks_heads:
            rows = (self._table[name].get("sums") for _, name, _ in self._plan)
            if parts := [sums_of(row) for row in rows if row is not None]:
                with self._table:
                    self._add_losses(reduce(add, parts))
        return unfinished

    def _plan_batches(
        self, shard: Shard | None
    ) -> Iterator[tuple[Shard | None, str, list[Utterance]]]:
        """The batches of all shards, each with its shard and the id of its row."""
        members: dict[Shard | None, list[Utterance]] = {}
        for utterance in self.utterances:
            one = Shard.of(utterance.id, shard.count) if shard else None
            members.setdefault(one, []).append(utterance)
        for one in sorted(members, key=str):
            for clips in self._by_length(members[one]):
                yield one, BATCH_ID + digest([u.id for u in clips]), clips

    def _missing(
        self, wanted: Wanted, answered: Collection[str], shard: Shard | None = None
    ) -> list[AskedBatch]:
        """The batches of a shard of which something is missing; None for those of all shards."""
        requests, lacks_heads, found = self._requests(wanted), self._lacks_heads, []
        for one, name, clips in self._plan:
            if shard is not None and shard != one:
                continue
            known = [u for u in clips if "dropped" not in self._table[u.id]]
            asked = [self._asked(u, wanted, requests, u.id in answered) for u in known]
            batch = AskedBatch(name, asked, lacks_heads and "sums" not in self._table[name])
            if not batch.is_whole:
                found.append(batch)
        return found

    def _asked(
        self, utterance: Utterance, wanted: Wanted, requests: Requests, answered: bool
    ) -> AskedClip:
        """What the table lacks of the LLM's predictions for a clip."""
        row = self._table[utterance.id]
        label = self._has_labels and not row.keys() >= {*wanted.fields}
        weighs = self._has_labels and not requests.is_plain
        weighs = weighs and fingerprint_of(row.get("likelihoods", {})) != _texts_digest(requests)
        answer = self.recipe.needs_llm and answered and "answer" not in row
        return AskedClip(utterance, label, weighs, answer)

    def _by_length(self, utterances: Sequence[Utterance]) -> list[list[Utterance]]:
        """Batches of utterances of similar length, as one process has them."""
        if self.recipe.text is not None:
            lengths = [len(u.text) for u in utterances]
        else:
            lengths = self._load_streams(utterances).lengths([u.id for u in utterances]).tolist()
        return [[utterances[i] for i in batch] for batch in ordered_batches(lengths, BATCH)]

    @property
    def _lacks_heads(self) -> bool:
        """Whether predictions of the heads, or the losses, are missing."""
        if self.recipe.text is not None:
            return False
        names = [u.id for u in self.utterances if "dropped" not in self._table[u.id]]
        return bool(self._table.missing(names, "head")) or "losses" not in self._table[ALL]

    @property
    def _has_labels(self) -> bool:
        """Whether the LLM predicts emotions; not if the recipe gives it the true one."""
        return self.recipe.needs_llm and not (self.recipe.text and self.recipe.text.gold_emotion)

    def _requests(self, wanted: Wanted) -> Requests:
        recipe = self.recipe
        orders, calibrate = wanted.orders, wanted.calibrate
        return Requests.of(recipe.prompts, recipe.heads.emotions, orders, calibrate)

    def predict(self, wanted: Wanted) -> EmotionPredictions:
        """Emotions and dimensions by the heads, and emotions by the LLM, where the run has them.

        The LLM does not predict if the recipe gives it the true emotion.
        """
        self._drop_long()
        recipe, ids = self.recipe, [u.id for u in self.utterances]
        has_heads, has_labels, in_words = recipe.text is None, self._has_labels, wanted.in_words
        if self._lacks_heads:
            self._predict_heads()
        if has_labels:
            self._predict_labels(wanted.fields)
        rows = [self._table[i] for i in ids]
        dimensions = None
        if has_heads and all(row["dimensions"] is not None for row in rows):
            dimensions = np.array([row["dimensions"] for row in rows], np.float32)
        labels = likelihoods = None
        if has_labels:
            requests = self._requests(wanted)
            likely = [row["likely"] for row in rows]
            if not requests.is_plain:
                likelihoods = self._predict_likelihoods(requests)
                names = recipe.heads.emotions
                likely = [names[i] for i in likelihoods.likeliest]
            named = [row["named"] if in_words else None for row in rows]
            labels = [Label(*pair) for pair in zip(likely, named, strict=True)]
        return EmotionPredictions(
            head=[row["head"] for row in rows] if has_heads else None,
            dimensions=dimensions,
            llm=labels,
            in_words=in_words,
            losses=self._table[ALL]["losses"] if has_heads else {},
            likelihoods=likelihoods,
        )

    def _drop_long(self) -> None:
        """Leave out utterances that are too long for the LLM; `dropped` has their reasons."""
        known = {"head", "likely", "answer", "dropped"}
        left = [u for u in self.utterances if not known & self._table[u.id].keys()]
        if left and self.recipe.needs_llm:
            with self._table:
                for name, reason in self._responder.too_long(left).items():
                    self._table.add(name, dropped=reason)
        rows = {u.id: self._table[u.id] for u in self.utterances}
        self.dropped = {name: row["dropped"] for name, row in rows.items() if "dropped" in row}
        kept = [u for u in self.utterances if u.id not in self.dropped]
        if self.utterances and not kept:
            name, reason = next(iter(self.dropped.items()))
            raise ManifestError(
                f"{self._manifest}: every clip is too long for the LLM; the first, {name!r}: "
                f"{reason}; shorten the texts, or use another LLM"
            )
        self.utterances = kept

    def answers(self, utterances: Sequence[Utterance]) -> list[Generation]:
        """Answers to some of the utterances, in order; `ConfigError` if the run has no LLM."""
        left = [u for u in utterances if "answer" not in self._table[u.id]]
        if left:
            found = self._responder.answers(left, BATCH)
            answers = ((g.id, {"answer": answer_field(g)}) for g in found)
            self._table.fill("Answering", len(left), "clips", answers)
        return [
            Generation(u.id, u.audio, u.text, **self._table[u.id]["answer"]) for u in utterances
        ]

    def empathy(self, utterances: Sequence[Utterance], folder: Path) -> EmpathyScores:
        """Empathy of the answers to one or more utterances with a transcript.

        Raises:
            RunError: `folder` holds no finished empathy scorer.
            ConfigError: the run has no LLM.
        """
        answers = self.answers(utterances)
        scorer = file_digest(folder / CARD)
        made = {a.id: digest([scorer, a.text, a.response])[:DIGITS] for a in answers}

        def is_scored(name: str) -> bool:
            return fingerprint_of(self._table[name].get("empathy", {})) == made[name]

        left = [answer for answer in answers if not is_scored(answer.id)]
        if left:
            found = zip(left, score_answers(folder, left), strict=True)
            scores = (
                (a.id, {"empathy": {FINGERPRINT: made[a.id], **asdict(levels)}})
                for a, levels in found
            )
            self._table.fill("Scoring", len(left), "answers", scores)
        rows = (self._table[answer.id]["empathy"] for answer in answers)
        scored = [ReplyLevels(row["levels"], row["long_levels"], row["cut"]) for row in rows]
        return summarize_empathy([answer.response for answer in answers], scored)

    def finish(self) -> bool:
        """Write `evaluated.jsonl`; return whether it changed."""
        found = [{"id": i, FINGERPRINT: made, **self._table[i]} for i, made in self._made.items()]
        return self._table.finish({n: row[n] for n in FIELDS if n in row} for row in found)

    @cached_property
    def _responder(self) -> SpeechResponder | TextResponder:
        return load_responder(
            self._run, self.recipe, self._cache, self._load_streams, self._resources
        )

    def _load_streams(self, utterances: Sequence[Utterance]) -> StreamSet:
        ids = [u.id for u in utterances]
        return self._resources.run_streams(self._run, self.recipe, self._manifest, self._cache, ids)

    def _predict_heads(self) -> None:
        """Predict all utterances together, because losses are means; store the losses last."""
        responder = self._responder
        if isinstance(responder, TextResponder):
            return
        found = responder.heads(self.utterances, read_limits(self._manifest))
        with self._table:
            for name, fields in head_fields(self.utterances, found, self.recipe.heads.emotions):
                self._table.add(name, **fields)
            self._add_losses(found.sums)

    def _add_losses(self, sums: LossSums) -> None:
        rated = {KL: sums.divergence / sums.rated} if sums.rated else {}
        self._table.add(ALL, losses=sums.losses.means() | rated)

    def _predict_labels(self, fields: tuple[str, ...]) -> None:
        """Let the LLM label the utterances that lack a field of `Label`."""
        missing = {*self._table.missing((u.id for u in self.utterances), *fields)}
        left = [u for u in self.utterances if u.id in missing]
        if left:
            found = self._responder.labels(left, "named" in fields, BATCH)
            labels = ((name, label_fields(label, fields)) for name, label in found)
            self._table.fill("Labeling", len(left), "clips", labels)

    def _predict_likelihoods(self, requests: Requests) -> Likelihoods:
        """Log-likelihoods of the labels under each request, and after an empty speech if used.

        A row keeps those of one set of requests, with a fingerprint of their texts.
        """
        made = _texts_digest(requests)

        def is_current(row: Mapping[str, Any], field: str) -> bool:
            return fingerprint_of(row.get(field, {})) == made

        left = [u for u in self.utterances if not is_current(self._table[u.id], "likelihoods")]
        if left:
            found = self._responder.likelihoods(left, requests, BATCH)
            rows = (
                (name, {"likelihoods": likelihood_field(values, made)}) for name, values in found
            )
            self._table.fill("Weighing labels", len(left), "clips", rows)
        first = self.utterances[0].id
        if requests.calibrate and not is_current(self._table[first], "empty_likelihoods"):
            values = self._responder.empty_likelihoods(requests)
            with self._table:
                self._table.add(first, empty_likelihoods=likelihood_field(values, made))
        speech = [self._table[u.id]["likelihoods"]["values"] for u in self.utterances]
        empty = self._table[first].get("empty_likelihoods") if requests.calibrate else None
        return Likelihoods(np.array(speech), None if empty is None else np.array(empty["values"]))


def _texts_digest(requests: Requests) -> str:
    """Fingerprint of the likelihoods under requests."""
    return digest([requests.texts])[:DIGITS]


def prediction_rows(
    utterances: Sequence[Utterance], predictions: EmotionPredictions
) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of `predictions.csv`.

    A row has the true emotion, the emotions by head and LLM, and arousal, dominance and valence by
    the dimension head; a cell without a value is empty.
    """
    labels = predictions.llm
    emotions: dict[str, Sequence[str | None] | None] = {
        "head": predictions.head,
        "llm": None if labels is None else [label.likely for label in labels],
        "llm_in_words": None if labels is None else [label.named for label in labels],
    }
    dimensions = predictions.dimensions
    rows = []
    for place, utterance in enumerate(utterances):
        named = ["" if column is None else column[place] or "" for column in emotions.values()]
        values = [""] * 3 if dimensions is None else [f"{value:.4f}" for value in dimensions[place]]
        texts = [utterance.id, utterance.speaker, utterance.emotion or "", *named]
        rows.append([*texts, *values])
    return ["id", "speaker", "emotion", *emotions, *DIMENSIONS], rows


def read_predictions(path: Path) -> dict[str, dict[str, str]]:
    """Utterance id → row of a `predictions.csv`.

    Raises `ManifestError` if it cannot be read, and `RunError` if it differs from its checksum.
    """
    require_intact(path, "remove it, and evaluate the run again")
    return {row["id"]: row for _, row in read_csv(path, ["id"], own=True)}
