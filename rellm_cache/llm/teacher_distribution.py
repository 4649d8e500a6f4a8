"""What a text LLM would say next. In: hidden states along a response. Out: rows to learn from.

A row is the distribution of the next token at a temperature: the K likeliest tokens and their
log-probabilities, and the log-probability of all others together. Rows are kept at one temperature:
from the K of one temperature the mass of the others at another cannot be told.

Letters: N predicted tokens, H hidden size, V vocabulary, K tokens told apart.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 256  # tokens whose logits exist at one time


@torch.no_grad()
def distribution_rows(
    predictors: Tensor, output_weight: Tensor, top_k: int, temperature: float
) -> Tensor:
    """The next-token distribution after each of N hidden states.

    Args:
        predictors: (N, H), in the dtype of the weight.
        output_weight: (V, H), V above K.
        top_k: K.
        temperature: above 0; logits are divided by it.

    Returns:
        (N, 2 K + 1) float32: K token ids, likeliest first (exact: below 2^24), their
        log-probabilities, and the log-probability of all other tokens together.
    """
    rows = torch.empty(len(predictors), 2 * top_k + 1, device=predictors.device)
    for start in range(0, len(predictors), CHUNK):
        part = slice(start, start + CHUNK)
        logits = (predictors[part] @ output_weight.T).float() / temperature  # (n, H) -> (n, V)
        top, ids = logits.topk(top_k, dim=1)  # (n, K)
        rest = logits.scatter_(1, ids, -torch.inf).logsumexp(1, keepdim=True)  # (n, 1)
        bins = torch.cat([top, rest], 1).log_softmax(1)  # (n, K + 1)
        rows[part] = torch.cat([ids.float(), bins], 1)
    return rows


def split_rows(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N, K) int64 ids, (N, K) log-probabilities, (N, 1) of the rest, of rows (N, 2 K + 1)."""
    top_k = rows.shape[1] // 2
    return rows[:, :top_k].long(), rows[:, top_k:-1], rows[:, -1:]


@dataclass(frozen=True)
class Truncation:
    """What the bins of a teacher leave of KL(teacher || student) at each of N tokens, in nats.

    Attributes:
        full: (N,) over the whole vocabulary.
        binned: (N,) over K tokens and one bin; never more than `full`.
        rest: (N,) the teacher's probability of the bin.
    """

    full: Tensor
    binned: Tensor
    rest: Tensor


def truncation(teacher: Tensor, student: Tensor, top_k: int, temperature: float) -> Truncation:
    """The divergence of full distributions beside that of their bins.

    What is lost is the rest's probability times the divergence within the rest (chain rule).

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
    """(N, K + 1) log-probabilities of some tokens and of all others together."""
    rest = log.scatter(1, ids, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([log.gather(1, ids), rest], 1)
