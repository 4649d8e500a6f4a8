"""Dimension losses (arousal, dominance, valence): squared error, and 1 - CCC of a whole step.

CCC is no sum over utterances, but depends on them only through five sums for each dimension. Given
those of the whole optimizer step, the derivative with respect to each prediction has a closed form,
so each micro-batch contributes its share of the exact gradient.

Letters: B utterances, n of them with dimensions.
"""

import torch
from torch import Tensor

from rellm_cache.data.batch import Batch
from rellm_cache.model.losses.registry import LossContext, Outputs, register_loss

MOMENTS = 6
FLOOR = 1e-12  # of CCC's denominator, for constant and equal values


def _with_dimensions(batch: Batch, context: LossContext) -> float:
    return (~batch.vad.isnan().any(dim=1)).sum().item()


@register_loss("vad", count=_with_dimensions, needs_dimensions=True)
def vad(outputs: Outputs, batch: Batch, context: LossContext) -> Tensor:
    """Loss of the dimension head by `losses.vad_kind`, summed; scalar float32."""
    assert outputs.dimensions is not None  # the loss is left out without the head
    if context.config.vad_kind == "ccc":
        return ccc_loss(outputs.dimensions, batch.vad, context.moments)
    return squared_error(outputs.dimensions, batch.vad)


def squared_error(predicted: Tensor, vad: Tensor) -> Tensor:
    """Squared error of (B, 3) dimensions, mean over the three, summed over utterances.

    `vad` holds NaN for an utterance without dimensions, which is skipped.
    """
    known = ~vad.isnan().any(dim=1)  # (B,)
    return (predicted[known].float() - vad[known]).square().mean(dim=1).sum()


def moments_of(predicted: Tensor, vad: Tensor) -> Tensor:
    """Sums over the utterances with dimensions; those of all micro-batches add up to the step's.

    Args:
        predicted: (B, 3) arousal, dominance, valence.
        vad: (B, 3) true values, NaN for an utterance without.

    Returns:
        (6, 3) float64: count, x, y, x squared, y squared, x times y; x is predicted, y is true.
    """
    known = ~vad.isnan().any(dim=1)  # (B,)
    x, y = predicted[known].double(), vad[known].double()  # (n, 3)
    return torch.stack([v.sum(0) for v in (torch.ones_like(x), x, y, x * x, y * y, x * y)])


def ccc_distance(moments: Tensor) -> Tensor:
    """1 - CCC (Lin 1989), mean over the three dimensions, scalar float64; 1 without utterances."""
    count = moments[0].clamp(min=1)
    x, y, xx, yy, xy = moments[1:] / count  # (3,) each
    spread = (xx - x * x) + (yy - y * y) + (x - y).square()
    distance: Tensor = 1 - 2 * (xy - x * y) / spread.clamp(min=FLOOR)  # (3,)
    return distance.mean()


def ccc_loss(predicted: Tensor, vad: Tensor, moments: Tensor | None = None) -> Tensor:
    """A micro-batch's share of the step's 1 - CCC, times its number of utterances; scalar float32.

    The sum over all micro-batches, divided by the count of the step, is 1 - CCC of the whole step,
    in value and in gradient.

    Args:
        predicted: (B, 3), differentiable.
        vad: (B, 3), NaN for an utterance without dimensions.
        moments: (6, 3) of the whole step; None if these utterances are all of it.
    """
    own = moments_of(predicted, vad)  # (6, 3), differentiable
    if moments is None:
        return (own[0, 0] * ccc_distance(own)).float()
    with torch.enable_grad():
        step = moments.detach().clone().requires_grad_()
        distance = ccc_distance(step)
        (slopes,) = torch.autograd.grad(distance, step)  # (6, 3)
    share = (slopes * (own - own.detach())).sum()  # 0, with the gradient of this part
    return (step[0, 0].detach() * share + own[0, 0] * distance.detach()).float()
