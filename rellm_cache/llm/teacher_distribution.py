"""Teacher distributions: the next-token probabilities of a text LLM along a response.

A row has the K most probable tokens with their log-probabilities, and the log-probability of all
others together. A row is valid for one temperature: for another, the others' mass is unknown.

Letters: N predicted tokens, H hidden size, V vocabulary, K tokens with their own probability.
"""

import torch
from torch import Tensor

from rellm_cache.llm.output_matrix import OutputMatrix, logits_of

CHUNK = 256


@torch.no_grad()
def distribution_rows(
    predictors: Tensor,
    output_weight: OutputMatrix,
    top_k: int,
    temperature: float,
    chunk: int = CHUNK,
) -> Tensor:
    """The next-token distribution after each of N hidden states.

    Args:
        predictors: (N, H), in the dtype of the weight.
        output_weight: (V, H), V > K.
        top_k: K.
        temperature: above 0; logits are divided by it.
        chunk: rows of logits in memory at a time.

    Returns:
        (N, 2 K + 1) float32: K token ids, most probable first (exact below 2^24), their
        log-probabilities, and the log-probability of all other tokens together.
    """
    rows = torch.empty(len(predictors), 2 * top_k + 1, device=predictors.device)
    for start in range(0, len(predictors), chunk):
        part = slice(start, start + chunk)
        logits = logits_of(predictors[part], output_weight).float() / temperature
        top, ids = logits.topk(top_k, dim=1)  # (n, K)
        rest = logits.scatter_(1, ids, -torch.inf).logsumexp(1, keepdim=True)  # (n, 1)
        bins = torch.cat([top, rest], 1).log_softmax(1)  # (n, K + 1)
        rows[part] = torch.cat([ids.float(), bins], 1)
    return rows


def split_rows(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split rows (N, 2 K + 1) into ids (N, K), log-probabilities (N, K) and the rest (N, 1)."""
    top_k = rows.shape[1] // 2
    return rows[:, :top_k].long(), rows[:, top_k:-1], rows[:, -1:]
