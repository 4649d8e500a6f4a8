"""KL divergence between next-token distributions: over the full vocabulary, and over bins."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Truncation:
    """KL(teacher || student) of N tokens in nats, with and without binning.

    Attributes:
        full: (N,) over the whole vocabulary.
        binned: (N,) over K tokens and one bin for the rest; at most `full`.
        rest: (N,) the teacher's probability of the bin.
    """

    full: Tensor
    binned: Tensor
    rest: Tensor


def truncation(teacher: Tensor, student: Tensor, top_k: int, temperature: float) -> Truncation:
    """Compare the divergence of full distributions with that of their bins.

    The difference is the rest's probability times the divergence within the rest (chain rule).

    Args:
        teacher, student: (N, V) logits.
    """
    log_p, log_q = ((z.double() / temperature).log_softmax(1) for z in (teacher, student))
    ids = log_p.topk(top_k, dim=1).indices  # (N, K)
    bins_p, bins_q = (_bins(log, ids) for log in (log_p, log_q))  # (N, K + 1)
    return Truncation(
        full=(log_p.exp() * (log_p - log_q)).sum(1),
        binned=(bins_p.exp() * (bins_p - bins_q)).sum(1),
        rest=bins_p[:, -1].exp(),
    )


def _bins(log: Tensor, ids: Tensor) -> Tensor:
    """(N, K + 1) log-probabilities of the tokens `ids` (N, K) and of all others together."""
    rest = log.scatter(1, ids, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([log.gather(1, ids), rest], 1)
