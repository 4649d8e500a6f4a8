"""Predictions and answers of a run for the utterances of a manifest, kept in `evaluated.jsonl`.

Each row has the requested values: the emotion by head and LLM, the dimensions, and the answer with
its empathy levels. A row with the id "" has the losses of all utterances together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rellm_cache.config.specs import digest
from rellm_cache.corpus.clip_limits import read_limits
from rellm_cache.corpus.dimensions import DIMENSIONS
from rellm_cache.corpus.manifest import Utterance, read_manifests
from rellm_cache.corpus.text_files import read_csv
from rellm_cache.data.examples import data_digest
from rellm_cache.data.streams import StreamSet
from rellm_cache.empathy.scorer_folder import CARD
from rellm_cache.errors import ManifestError
from rellm_cache.evaluation.empathy import (
    EmpathyScores,
    ReplyLevels,
    score_answers,
    summarize_empathy,
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
from rellm_cache.utils.checksums import require_intact
from rellm_cache.utils.regular_files import file_digest
from rellm_cache.utils.resumable_table import FINGERPRINT, ResultTable, fingerprint_of

EVALUATED, PREDICTIONS = "evaluated.jsonl", "predictions.csv"
ALL = ""  # id of the row for all utterances together
KL = "rater_kl"  # among the losses: mean divergence of the category head from raters
BATCH = 16  # clips


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
        self, run: Path, manifest: Path, cache: Path, out: Path, resources: SharedModels
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
        self._table = ResultTable(out / EVALUATED, made)
        self.dropped: dict[str, str] = {}

    def predict(
        self, in_words: bool, orders: int = 1, calibrate: bool = False
    ) -> EmotionPredictions:
        """Emotions and dimensions by the heads, and emotions by the LLM, where the run has them.

        The LLM does not predict if the recipe gives it the true emotion. With `in_words` it also
        answers each emotion in words. `orders` and `calibrate` are those of `Requests`.
        """
        self._drop_long()
        recipe, ids = self.recipe, [u.id for u in self.utterances]
        has_heads = recipe.text is None
        has_labels = recipe.needs_llm and not (recipe.text and recipe.text.gold_emotion)
        if has_heads and (self._table.missing(ids, "head") or "losses" not in self._table[ALL]):
            self._predict_heads()
        if has_labels:
            self._predict_labels(("likely", "named") if in_words else ("likely",))
        rows = [self._table[i] for i in ids]
        dimensions = None
        if has_heads and all(row["dimensions"] is not None for row in rows):
            dimensions = np.array([row["dimensions"] for row in rows], np.float32)
        labels = likelihoods = None
        if has_labels:
            requests = Requests.of(recipe.prompts, recipe.heads.emotions, orders, calibrate)
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
        known = {"head", "likely", "dropped"}
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
            answers = ((g.id, {"answer": _without_utterance(g)}) for g in found)
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
        return self._table.finish()

    @cached_property
    def _responder(self) -> SpeechResponder | TextResponder:
        return load_responder(
            self._run, self.recipe, self._cache, self._load_streams, self._resources
        )

    def _load_streams(self, utterances: Sequence[Utterance]) -> StreamSet:
        streams = self._resources.streams(self.recipe.encoders, self._cache)
        command = (
            f"rellm extract {self._manifest} --recipe {self._run}/recipe.toml --cache {self._cache}"
        )
        streams.require([u.id for u in utterances], command)
        return streams

    def _predict_heads(self) -> None:
        """Predict all utterances together, because losses are means; store the losses last."""
        responder = self._responder
        if isinstance(responder, TextResponder):
            return
        found = responder.heads(self.utterances, read_limits(self._manifest))
        names, dimensions = self.recipe.heads.emotions, found.dimensions
        with self._table:
            for index, utterance in enumerate(self.utterances):
                values = None if dimensions is None else dimensions[index].tolist()
                head = names[found.emotions[index]]
                self._table.add(utterance.id, head=head, dimensions=values)
            rated = {} if found.kl is None else {KL: found.kl}
            self._table.add(ALL, losses=found.terms.means() | rated)

    def _predict_labels(self, fields: tuple[str, ...]) -> None:
        """Let the LLM label the utterances that lack a field of `Label`."""
        missing = {*self._table.missing((u.id for u in self.utterances), *fields)}
        left = [u for u in self.utterances if u.id in missing]
        if left:
            found = self._responder.labels(left, "named" in fields, BATCH)
            labels = ((name, {f: getattr(label, f) for f in fields}) for name, label in found)
            self._table.fill("Labeling", len(left), "clips", labels)

    def _predict_likelihoods(self, requests: Requests) -> Likelihoods:
        """Log-likelihoods of the labels under each request, and after an empty speech if used.

        A row keeps those of one set of requests, with a fingerprint of their texts.
        """
        made = digest([requests.texts])[:DIGITS]

        def is_current(row: Mapping[str, Any], field: str) -> bool:
            return fingerprint_of(row.get(field, {})) == made

        def kept(values: Tensor) -> dict[str, Any]:
            return {FINGERPRINT: made, "values": values.double().cpu().tolist()}

        left = [u for u in self.utterances if not is_current(self._table[u.id], "likelihoods")]
        if left:
            found = self._responder.likelihoods(left, requests, BATCH)
            rows = ((name, {"likelihoods": kept(values)}) for name, values in found)
            self._table.fill("Weighing labels", len(left), "clips", rows)
        first = self.utterances[0].id
        if requests.calibrate and not is_current(self._table[first], "empty_likelihoods"):
            values = kept(self._responder.empty_likelihoods(requests))
            with self._table:
                self._table.add(first, empty_likelihoods=values)
        speech = [self._table[u.id]["likelihoods"]["values"] for u in self.utterances]
        empty = self._table[first].get("empty_likelihoods") if requests.calibrate else None
        return Likelihoods(np.array(speech), None if empty is None else np.array(empty["values"]))


def _without_utterance(generation: Generation) -> dict[str, Any]:
    fields = asdict(generation).items()
    return {name: value for name, value in fields if name not in ("id", "audio", "text")}


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
