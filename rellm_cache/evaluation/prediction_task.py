"""Predictions by workers: what a run predicts for batches of clips, and sums for the losses.

A batch is one result, so that its sums are there once, with the predictions of its clips.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rellm_cache.corpus.clip_limits import read_limits
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.data.streams import StreamSet
from rellm_cache.inference.emotion_recognition import Label
from rellm_cache.inference.recognition_requests import Requests
from rellm_cache.inference.responders import (
    Generation,
    SpeechResponder,
    TextResponder,
    load_responder,
)
from rellm_cache.model.losses.loss_terms import LossTerm, LossTerms
from rellm_cache.runs.shared_models import SharedModels
from rellm_cache.runs.weights import run_recipe
from rellm_cache.training.validation import LossSums, Predictions
from rellm_cache.utils.resumable_table import FINGERPRINT, Row
from rellm_cache.workers.rows import MakeRows, Rows, RowTask


@dataclass(frozen=True)
class AskedClip:
    """A clip, and what is missing of the LLM's predictions for it."""

    utterance: Utterance
    label: bool = False
    likelihoods: bool = False
    answer: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return not (self.label or self.likelihoods or self.answer)


@dataclass(frozen=True)
class AskedBatch:
    """Clips that one process has in one batch, and whether the predictions of heads are missing."""

    id: str
    clips: list[AskedClip]
    heads: bool

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return not self.heads and all(clip.is_whole for clip in self.clips)


@dataclass(frozen=True)
class PredictionTask(RowTask):
    """The task of a worker that predicts what is missing of batches of clips.

    A row is a list of ids and fields: those of the clips, or why one is dropped, then those of the
    batch.

    Attributes:
        clips: most clips of a batch.
        fields: of `Label` that a missing label has.
        requests: of the likelihoods, with the fingerprint of their texts.
    """

    run_folder: Path
    manifest: Path
    cache: Path
    clips: int
    fields: tuple[str, ...]
    requests: Requests
    fingerprint: str

    def load(self, note: Callable[[str], None]) -> MakeRows:
        """Load the run and its LLM."""
        recipe, resources = run_recipe(self.run_folder), SharedModels()

        def load_streams(utterances: Sequence[Utterance]) -> StreamSet:
            ids = [u.id for u in utterances]
            return resources.run_streams(self.run_folder, recipe, self.manifest, self.cache, ids)

        return self.made_by(
            load_responder(self.run_folder, recipe, self.cache, load_streams, resources)
        )

    def made_by(self, model: SpeechResponder | TextResponder) -> MakeRows:
        """The function that makes rows with a model that is loaded."""
        recipe, limits = run_recipe(self.run_folder), read_limits(self.manifest)

        def predict(batches: Sequence[AskedBatch]) -> Rows:
            for batch in batches:
                clips = [clip.utterance for clip in batch.clips]
                dropped = model.too_long(clips) if recipe.needs_llm else {}
                rows: dict[str, Row] = {name: {"dropped": why} for name, why in dropped.items()}
                left = [clip for clip in batch.clips if clip.utterance.id not in dropped]
                rows |= {clip.utterance.id: {} for clip in left}
                if batch.heads and isinstance(model, SpeechResponder):
                    kept = [clip.utterance for clip in left]
                    sums = None
                    if kept:
                        found = model.heads(kept, limits)
                        for name, fields in head_fields(kept, found, recipe.heads.emotions):
                            rows[name] |= fields
                        sums = sums_field(found.sums)
                    rows[batch.id] = {"sums": sums}
                self._add_llm(model, left, rows)
                yield batch.id, [(name, fields) for name, fields in rows.items() if fields]

        return predict

    def _add_llm(
        self,
        model: SpeechResponder | TextResponder,
        clips: Sequence[AskedClip],
        rows: dict[str, Row],
    ) -> None:
        """Add missing predictions of the LLM to the rows of a batch."""
        size = self.clips
        if unlabelled := [clip.utterance for clip in clips if clip.label]:
            for name, label in model.labels(unlabelled, "named" in self.fields, size):
                rows[name] |= label_fields(label, self.fields)
        if unweighed := [clip.utterance for clip in clips if clip.likelihoods]:
            for name, values in model.likelihoods(unweighed, self.requests, size):
                rows[name]["likelihoods"] = likelihood_field(values, self.fingerprint)
        if unanswered := [clip.utterance for clip in clips if clip.answer]:
            for generation in model.answers(unanswered, size):
                rows[generation.id]["answer"] = answer_field(generation)


def head_fields(
    utterances: Sequence[Utterance], found: Predictions, emotions: Sequence[str]
) -> Iterator[tuple[str, Row]]:
    """Ids of utterances, and the fields of their rows that the heads predict."""
    for index, utterance in enumerate(utterances):
        values = None if found.dimensions is None else found.dimensions[index].tolist()
        yield utterance.id, {"head": emotions[found.emotions[index]], "dimensions": values}


def sums_field(sums: LossSums) -> dict[str, Any]:
    """The field of a batch's row that holds sums, without rounding."""
    terms = {name: [term.sum.item(), term.count.item()] for name, term in sums.terms.items()}
    moments = None if sums.moments is None else sums.moments.tolist()
    return {"terms": terms, "moments": moments, "raters": [sums.divergence, sums.rated]}


def sums_of(field: Mapping[str, Any]) -> LossSums:
    """The sums in a row."""
    terms = {name: LossTerm(*torch.tensor(pair)) for name, pair in field["terms"].items()}
    moments = field["moments"]
    return LossSums(
        LossTerms(terms),
        None if moments is None else torch.tensor(moments, dtype=torch.float64),
        *field["raters"],
    )


def label_fields(label: Label, fields: Sequence[str]) -> dict[str, Any]:
    """Fields of a row that hold a label."""
    return {name: getattr(label, name) for name in fields}


def likelihood_field(values: Tensor, fingerprint: str) -> dict[str, Any]:
    """The field of a row that holds likelihoods (W, O, C)."""
    return {FINGERPRINT: fingerprint, "values": values.double().cpu().tolist()}


def answer_field(generation: Generation) -> dict[str, Any]:
    """The field of a row that holds an answer, without what the utterance tells."""
    fields = asdict(generation).items()
    return {name: value for name, value in fields if name not in ("id", "audio", "text")}
