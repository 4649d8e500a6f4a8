"""Prefetch of batches to a GPU: copies the next group while the current group is computed.

Copies run on their own CUDA stream. The next group is requested only after the copy has ended, so
host memory is never overwritten during a copy.
"""

from collections.abc import Generator
from contextlib import closing

import torch

from rellm_cache.data.batch import Batch


def prefetch_to_gpu(
    groups: Generator[list[Batch], None, None], device: torch.device
) -> Generator[list[Batch], None, None]:
    """Yield each group on the GPU while the next one is copied.

    Closing the generator waits for running copies and closes `groups`.
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
                    yield _record_current_stream(current, device)
                stream.synchronize()  # no real wait: a step ran since the copy began
            if ahead is not None:
                yield _record_current_stream(ahead, device)
        finally:
            stream.synchronize()


def _record_current_stream(batches: list[Batch], device: torch.device) -> list[Batch]:
    """Let the current CUDA stream finish with these batches before their memory is reused."""
    for batch in batches:
        batch.record_stream(torch.cuda.current_stream(device))
    return batches
