"""Concordance as a loss. In: predictions of a part of a step, moments of all of it. Out: 1 - CCC.

CCC is no sum over utterances, but it depends on them through five sums a dimension alone. With
those of the whole optimiser step, its derivative with respect to each prediction is a closed form,
so each micro-batch contributes its own share of the exact gradient.

Letters: B utterances, n of them with dimensions.
"""

import torch
from torch import Tensor

MOMENTS = 6
FLOOR = 1e-12  # of CCC's denominator, where all is constant and equal


def moments_of(predicted: Tensor, vad: Tensor) -> Tensor:
    """Sums over utterances with dimensions, which add up over the parts of a step.

    Args:
        predicted: (B, 3) arousal, dominance, valence.
        vad: (B, 3) true ones, NaN where an utterance has none.

    Returns:
        (6, 3) float64: count, x, y, x squared, y squared, x times y; x predicted, y true.
    """
    known = ~vad.isnan().any(dim=1)  # (B,)
    x, y = predicted[known].double(), vad[known].double()  # (n, 3)
    return torch.stack([v.sum(0) for v in (torch.ones_like(x), x, y, x * x, y * y, x * y)])


def concordance_distance(moments: Tensor) -> Tensor:
    """1 - CCC (Lin 1989), mean over the three dimensions, scalar float64; 1 of nothing."""
    count = moments[0].clamp(min=1)
    x, y, xx, yy, xy = moments[1:] / count  # (3,) each
    spread = (xx - x * x) + (yy - y * y) + (x - y).square()
    distance: Tensor = 1 - 2 * (xy - x * y) / spread.clamp(min=FLOOR)  # (3,)
    return distance.mean()


def concordance_loss(predicted: Tensor, vad: Tensor, moments: Tensor | None = None) -> Tensor:
    """A micro-batch's share of the step's 1 - CCC, times the utterances that it counts.

    Summed over the micro-batches and divided by the step's count it is 1 - CCC of the whole step,
    in value and in gradient.

    Args:
        predicted: (B, 3), differentiable.
        vad: (B, 3), NaN where an utterance has no dimensions.
        moments: (6, 3) of the whole step; None where these utterances are all of it.

    Returns:
        Scalar float32.
    """
    own = moments_of(predicted, vad)  # (6, 3), differentiable
    if moments is None:
        return (own[0, 0] * concordance_distance(own)).float()
    with torch.enable_grad():
        step = moments.detach().clone().requires_grad_()
        distance = concordance_distance(step)
        (slopes,) = torch.autograd.grad(distance, step)  # (6, 3)
    share = (slopes * (own - own.detach())).sum()  # 0, with the gradient of this part
    return (step[0, 0].detach() * share + own[0, 0] * distance.detach()).float()
