"""Log-likelihoods that the LLM gives to known answers to a request."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.packed_rows import Segment, pack
from rellm_cache.model.losses.token import token_cross_entropy


@torch.inference_mode()
def answer_log_likelihoods(
    llm: FrozenLLM, request: Sequence[Segment], answers: Sequence[Sequence[int]]
) -> Tensor:
    """(A,) float32 log-likelihood of each answer's ids after the same request.

    Args:
        request: segments, each the parent of the next.
    """
    last = len(request) - 1
    row = pack([*request, *(llm.segment(answer=ids, parent=last) for ids in answers)])
    losses, owners = token_cross_entropy(
        row, llm.hidden_states(row), llm.output_weight
    )  # (N,), (N,)
    found = losses.new_zeros(len(answers))
    return found.index_add(0, owners - len(request), -losses)
