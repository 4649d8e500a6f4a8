"""Copies to a GPU. In: batches in page-locked memory. Out: the same on the GPU, in advance.

A group is copied on a stream of its own while the group before is computed on. Its host memory is
used again only after that copy: the next group is asked for when the copy has ended.
"""

from collections.abc import Generator
from contextlib import closing

import torch

from rellm_cache.data.batch import Batch


def copied_ahead(
    groups: Generator[list[Batch], None, None], device: torch.device
) -> Generator[list[Batch], None, None]:
    """Each group on a GPU, while the next one is being copied.

    Closing it waits for copies under way and closes `groups`.
    """
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's is untyped
    ahead: list[Batch] | None = None
    with closing(groups):
        try:
            for group in groups:
                current, ahead = ahead, None
                with torch.cuda.stream(stream):
                    ahead = [batch.to(device) for batch in group]
                if current is not None:
                    yield _handed_over(current, device)
                stream.synchronize()  # long over: a step was computed since
            if ahead is not None:
                yield _handed_over(ahead, device)
        finally:
            stream.synchronize()


def _handed_over(batches: list[Batch], device: torch.device) -> list[Batch]:
    """Batches whose copy has ended, for the current stream: their memory waits for its work."""
    for batch in batches:
        batch.record_stream(torch.cuda.current_stream(device))
    return batches
