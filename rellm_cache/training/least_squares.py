"""Least squares: the heads fitted in closed form on pooled vectors, in place of gradient steps.

Ridge regression: the targets are an utterance's emotion as zeros and a one (or the shares of its
raters), and its dimensions. Each head has the penalty with the smallest error on speakers that were
left out; the logits are scaled so that the labels of these speakers are likeliest.

Letters: N training clips, P values of a pooled vector, O outputs of a head, C emotions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rellm_cache.data.batch import Example
from rellm_cache.data.loader import BatchLoader
from rellm_cache.data.sampler import ordered_batches
from rellm_cache.errors import RunError
from rellm_cache.model.losses.emotion import emotion_cross_entropy, utterance_weights
from rellm_cache.model.speech_llm import SpeechLLM

BATCH = 16  # clips
FOLDS = 4
PENALTIES = (0.1, 0.3, 1.0, 3.0)  # times the mean squared length of a vector
Fit = Callable[[Tensor], Tensor]  # penalty -> weights (P, O)
SCALES = tuple(2 ** (k / 4) for k in range(33))  # of the logits: 1 to 256


@torch.no_grad()
def fit_heads(
    model: SpeechLLM, examples: Sequence[Example], groups: Sequence[str], loader: BatchLoader
) -> dict[str, float]:
    """Set the weights of the heads by least squares on the pooled vectors of training clips.

    Args:
        groups: of each example, its speaker, for instance; clips of a group are left out together.
        loader: of the examples, on the model's device.

    Returns:
        Loss of each head on clips that were left out, by name, without label smoothing.

    Raises:
        RunError: a pooled vector is not finite.
    """
    model.eval()
    losses = {}
    vectors = _pooled_vectors(model, examples, loader)
    left_out = _deal(groups)
    labels = torch.tensor([example.emotion for example in examples])
    shares = None
    if any(example.shares is not None for example in examples):
        unknown = (float("nan"),) * len(model.emotions)
        shares = torch.tensor([example.shares or unknown for example in examples])
    class_weights = None if model.class_weights is None else model.class_weights.cpu()
    weights = utterance_weights(labels, class_weights, shares)
    known = weights > 0
    if model.heads.category.weight.requires_grad and known.any():
        targets = torch.nn.functional.one_hot(labels.clamp(min=0), len(model.emotions)).float()
        if shares is not None:
            targets = torch.where(shares.isnan(), targets, shares)
        targets = targets - 1 / len(model.emotions)
        problem = Problem(vectors[known], targets[known], weights[known], left_out[known])
        fitted, held_out = problem.solve()
        true = labels[known], 0.0, class_weights, None if shares is None else shares[known]
        errors = {s: float(emotion_cross_entropy(held_out * s, *true)) for s in SCALES}
        scale = min(errors, key=errors.__getitem__)
        model.heads.category.weight.copy_(fitted * scale)
        losses["emotion_ce"] = errors[scale] / float(weights.sum())
    dimensions = model.heads.dimensions
    if dimensions is not None and dimensions.weight.requires_grad:
        rated = torch.tensor([example.vad is not None for example in examples])
        if rated.any():
            values = torch.tensor([e.vad for e in examples if e.vad is not None])
            alike = torch.ones(len(values))
            fitted, held_out = Problem(vectors[rated], values, alike, left_out[rated]).solve()
            dimensions.weight.copy_(fitted)
            losses["vad"] = float((held_out - values).square().mean())
    return losses


def _pooled_vectors(model: SpeechLLM, examples: Sequence[Example], loader: BatchLoader) -> Tensor:
    """(N, P) float32 on the CPU; `RunError` if a value is not finite."""
    vectors = torch.zeros(len(examples), model.heads.pooling.output_size)
    plan = ordered_batches(loader.lengths, BATCH)
    device = next(model.parameters()).device
    for indices, batch in zip(plan, loader.batches(plan, reuse_memory=True), strict=True):
        vectors[indices] = model.pooled(model.speech(batch.to(device))).float().cpu()
    wrong = ~vectors.isfinite().all(dim=1)
    if wrong.any():
        name = examples[int(wrong.nonzero()[0])].id
        raise RunError(f"{name}: its pooled vector is not finite; look for NaN in its frames")
    return vectors


def _deal(groups: Sequence[str]) -> Tensor:
    """(N,) int64 fold of each clip: whole groups, in turn."""
    fold = {group: index % FOLDS for index, group in enumerate(sorted(set(groups)))}
    return torch.tensor([fold[group] for group in groups])


@dataclass(frozen=True)
class Problem:
    """A least-squares problem.

    Attributes:
        vectors: (n, P) float32.
        targets: (n, O) float32.
        weights: (n,) of the clips' squared errors, above 0.
        folds: (n,) int64, the fold in which a clip is left out.
    """

    vectors: Tensor
    targets: Tensor
    weights: Tensor
    folds: Tensor

    def solve(self) -> tuple[Tensor, Tensor]:
        """Weights (O, P) with the best penalty, and predictions (n, O) of clips left out."""
        few = len(self.vectors) < self.vectors.shape[1]
        of = self._by_clips() if few else self._by_values()
        mean = self.vectors.square().sum(1).mean()
        held_out = {penalty: torch.zeros_like(self.targets) for penalty in PENALTIES}
        folds = set(self.folds.tolist())
        for fold in sorted(folds) if len(folds) > 1 else ():
            left = self.folds == fold
            fit = of(~left)
            for penalty, predicted in held_out.items():
                predicted[left] = self.vectors[left] @ fit(penalty * mean)
        errors = {
            penalty: float(self.weights @ (predicted - self.targets).square().sum(1))
            for penalty, predicted in held_out.items()
        }
        penalty = min(errors, key=errors.__getitem__)
        everything = torch.ones_like(self.folds, dtype=torch.bool)
        return of(everything)(penalty * mean).T, held_out[penalty]

    def _by_clips(self) -> Callable[[Tensor], Fit]:
        """Fits of some clips (n,), with a matrix of clips by clips."""
        products = self.vectors @ self.vectors.T  # (n, n)

        def of(clips: Tensor) -> Fit:
            own, inverse = products[clips][:, clips], 1 / self.weights[clips]

            def fit(penalty: Tensor) -> Tensor:
                solved = _solved(own + torch.diag(penalty * inverse), self.targets[clips])
                return self.vectors[clips].T @ solved

            return fit

        return of

    def _by_values(self) -> Callable[[Tensor], Fit]:
        """The same with a matrix of values by values."""

        def of(clips: Tensor) -> Fit:
            weighted = self.vectors[clips] * self.weights[clips].unsqueeze(1)  # (m, P)
            square, cross = weighted.T @ self.vectors[clips], weighted.T @ self.targets[clips]
            unit = torch.eye(len(square))
            return lambda penalty: _solved(square + penalty * unit, cross)

        return of


def _solved(square: Tensor, targets: Tensor) -> Tensor:
    return torch.cholesky_solve(targets, torch.linalg.cholesky(square))
