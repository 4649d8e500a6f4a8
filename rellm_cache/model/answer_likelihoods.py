"""Log-likelihoods that the LLM gives to known answers to a request, or to several packed ones."""

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
    return _of_segments(
        llm, [*request, *(llm.segment(answer=ids, parent=last) for ids in answers)]
    )[len(request) :]


@torch.inference_mode()
def packed_log_likelihoods(
    llm: FrozenLLM, start: Segment, requests: Sequence[Segment], answers: Sequence[Sequence[int]]
) -> Tensor:
    """(B, A) float32 log-likelihood of each answer's ids after each request.

    Requests share rows of at most `llm.pack_length` tokens; a longer one has its own row.

    Args:
        start: what all requests continue; they have parent 0.
    """
    own = sum(max(len(ids) - 1, 0) for ids in answers)
    rows: list[list[Segment]] = []
    room = 0
    for request in requests:
        size = len(request.embeddings) + own
        if not rows or size > room:
            rows.append([])
            room = llm.config.pack_length
        rows[-1].append(request)
        room -= size
    found = []
    for row in rows:
        segments = [start, *row]
        for parent in range(1, len(row) + 1):
            segments += (llm.segment(answer=ids, parent=parent) for ids in answers)
        likely = _of_segments(llm, segments)[len(row) + 1 :]  # (b * A,)
        found.append(likely.view(len(row), len(answers)))
    return torch.cat(found)


def _of_segments(llm: FrozenLLM, segments: Sequence[Segment]) -> Tensor:
    """(S,) float32 log-likelihood of each segment's answer; 0 where it has none."""
    row = pack(segments)
    losses, owners = token_cross_entropy(
        row, llm.hidden_states(row), llm.output_weight
    )  # (N,), (N,)
    return losses.new_zeros(len(segments)).index_add(0, owners, -losses)
