"""Validation scores: predictions of the heads on examples, their losses, UA and CCC."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rellm_cache.corpus.dimensions import DIMENSIONS
from rellm_cache.data.batch import IGNORED, Example
from rellm_cache.data.loader import BatchLoader
from rellm_cache.data.sampler import ordered_batches
from rellm_cache.data.streams import StreamSet
from rellm_cache.metrics.classification import RecognitionScores, score_recognition
from rellm_cache.metrics.correlation import concordance
from rellm_cache.model.losses.dimensions import MOMENTS, ccc_distance, moments_of
from rellm_cache.model.losses.emotion import rater_divergence
from rellm_cache.model.losses.loss_terms import LossTerms
from rellm_cache.model.losses.registry import Outputs
from rellm_cache.model.speech_llm import SpeechLLM

BATCH = 16
Copy = tuple[int, Example]  # of an example at another speed, with the place of the example


@dataclass(frozen=True)
class Predictions:
    """Predictions of the heads, in the order of the examples.

    Attributes:
        emotions: (N,) int64 predicted indices.
        dimensions: (N, 3) float32 arousal, dominance, valence, or None.
    """

    emotions: np.ndarray
    dimensions: np.ndarray | None
    sums: "LossSums"

    @property
    def terms(self) -> LossTerms:
        """The losses of all examples."""
        return self.sums.losses

    @property
    def kl(self) -> float | None:
        """Mean KL(raters || head) in nats over examples with raters; None without any."""
        return self.sums.divergence / self.sums.rated if self.sums.rated else None


@dataclass(frozen=True)
class LossSums:
    """Sums over examples, of which losses are made; those of parts of the examples add up.

    Attributes:
        terms: a loss that needs moments has the value of a part.
        moments: (6, 3) float64 of the dimensions, where a loss needs those of all examples.
        divergence: KL(raters || head) in nats over `rated` examples with raters.
    """

    terms: LossTerms
    moments: Tensor | None
    divergence: float = 0.0
    rated: int = 0

    def __add__(self, other: "LossSums") -> "LossSums":
        """Sums over the examples of both."""
        moments = self.moments
        if moments is not None and other.moments is not None:
            moments = moments + other.moments
        return LossSums(
            self.terms + other.terms,
            moments,
            self.divergence + other.divergence,
            self.rated + other.rated,
        )

    @property
    def losses(self) -> LossTerms:
        """The losses of all examples; CCC is no mean over parts of them."""
        if self.moments is None:
            return self.terms
        return self.terms.with_mean("vad", ccc_distance(self.moments).float())


@dataclass(frozen=True)
class HeadScores:
    """Scores of the auxiliary heads; None or empty without labels. `kl` as in `Predictions`."""

    recognition: RecognitionScores | None
    ccc: dict[str, float]
    kl: float | None = None


@torch.inference_mode()
def predict(
    model: SpeechLLM,
    examples: Sequence[Example],
    streams: StreamSet,
    device: torch.device,
    copies: Sequence[Copy] = (),
) -> Predictions:
    """Run the model on examples in evaluation mode; then restore its mode.

    Args:
        copies: at other speeds, over which predictions are averaged; losses are of the examples.
    """
    was_training = model.training
    model.eval()
    logits = torch.zeros(len(examples), len(model.emotions))
    dimensions = np.zeros((len(examples), 3), np.float32)
    heard = np.ones(len(examples), np.int64)
    zeros = torch.zeros(MOMENTS, 3, dtype=torch.float64, device=device)
    sums = LossSums(LossTerms.zeros(model.losses, device), zeros if model.needs_moments else None)
    loader = BatchLoader(examples, streams, device)
    plan = ordered_batches(loader.lengths, BATCH)
    for indices, batch in zip(plan, loader.batches(plan, reuse_memory=True), strict=True):
        outputs = model(batch.to(device))
        logits[indices] = outputs.emotion_logits.float().cpu()
        divergence, rated, moments = 0.0, 0, zeros
        if batch.shares is not None:
            total, count = rater_divergence(outputs.emotion_logits, batch.shares.to(device))
            divergence, rated = total.item(), int(count)
        if outputs.dimensions is not None:
            dimensions[indices] = outputs.dimensions.float().cpu().numpy()
            moments = moments_of(outputs.dimensions, batch.vad.to(device))
        sums = sums + LossSums(outputs.terms, moments, divergence, rated)
    for places, outputs in _of_copies(model, copies, streams, device):
        logits.index_add_(0, torch.from_numpy(places), outputs.emotion_logits.float().cpu())
        np.add.at(heard, places, 1)
        if outputs.dimensions is not None:
            np.add.at(dimensions, places, outputs.dimensions.float().cpu().numpy())
    model.train(was_training)
    has_dimensions = model.heads.dimensions is not None
    means = dimensions / heard[:, None].astype(np.float32) if has_dimensions else None
    return Predictions(logits.argmax(1).numpy(), means, sums)


def _of_copies(
    model: SpeechLLM, copies: Sequence[Copy], streams: StreamSet, device: torch.device
) -> Iterator[tuple[NDArray[np.int64], Outputs]]:
    """Batches of copies: the places of their originals, and the outputs of the model."""
    if not copies:
        return
    originals = np.array([place for place, _ in copies])
    loader = BatchLoader([example for _, example in copies], streams, device)
    plan = ordered_batches(loader.lengths, BATCH)
    for indices, batch in zip(plan, loader.batches(plan, reuse_memory=True), strict=True):
        yield originals[indices], model(batch.to(device))


def score_heads(
    emotions: np.ndarray,
    dimensions: np.ndarray | None,
    examples: Sequence[Example],
    labels: tuple[str, ...],
) -> HeadScores:
    """UA of the category head and CCC of each dimension, where examples are labelled.

    Args:
        emotions: (N,) predicted indices.
        dimensions: (N, 3) arousal, dominance, valence, or None.
        labels: names of the emotions.
    """
    true = np.array([e.emotion for e in examples])
    recognition = score_labelled(true, emotions, labels)
    rows = [i for i, e in enumerate(examples) if e.vad is not None]
    ccc: dict[str, float] = {}
    if dimensions is not None and len(rows) > 1:
        targets = np.array([examples[i].vad for i in rows])
        for column, name in enumerate(DIMENSIONS):
            ccc[name] = concordance(targets[:, column], dimensions[rows, column])
    return HeadScores(recognition, ccc)


def score_labelled(
    true: np.ndarray, predicted: np.ndarray, labels: tuple[str, ...]
) -> RecognitionScores | None:
    """Recognition scores of the examples with a known emotion; None if there are none."""
    labelled = true != IGNORED
    if not labelled.any():
        return None
    return score_recognition(true[labelled], predicted[labelled], labels)


def validation_scores(
    model: SpeechLLM,
    examples: Sequence[Example],
    streams: StreamSet,
    device: torch.device,
    copies: Sequence[Copy] = (),
) -> dict[str, float]:
    """Mean losses, UA and CCC of a model on examples; its mode does not change.

    `copies` are those of `predict`.
    """
    predictions = predict(model, examples, streams, device, copies)
    scores = {f"{name}_loss": value for name, value in predictions.terms.means().items()}
    scores["loss"] = float(predictions.terms.total(model.loss_weights))
    heads = score_heads(predictions.emotions, predictions.dimensions, examples, model.emotions)
    if heads.recognition is not None:
        scores["ua"] = heads.recognition.ua
    if predictions.kl is not None:
        scores["kl"] = predictions.kl
    scores |= {f"ccc_{name}": value for name, value in heads.ccc.items()}
    return scores


def is_better(value: float, best: float | None) -> bool:
    """Whether a selection score is the best so far; one that is not finite never is."""
    return math.isfinite(value) and (best is None or not math.isfinite(best) or value > best)


def selection_score(best_metric: str, scores: dict[str, float], epoch: int) -> float:
    """Score of an epoch's weights by `training.best_metric`; higher is better.

    Args:
        scores: on the validation split; empty without one.
        epoch: number of the epoch, from 0.
    """
    if best_metric == "last" or not scores:
        return float(epoch)
    return -scores["loss"] if best_metric == "loss" else scores.get("ua", math.nan)
