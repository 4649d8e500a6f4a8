"""Sampling of batches: which examples form a batch, and the order of batches.

Both depend only on lengths, seed and epoch, so an interrupted run continues with the next batch.
"""

from collections.abc import Sequence

import numpy as np

BUCKET_BATCHES = 32


def bucketed_batches(
    lengths: Sequence[int],
    batch_size: int,
    seed: int,
    epoch: int,
    window_batches: int = BUCKET_BATCHES,
) -> list[list[int]]:
    """Indices of all examples, in random batches of similar length.

    Examples are shuffled, sorted by length within windows of `window_batches` batches, and the
    batches are shuffled. The result is the same on any machine. A wider window gives less padding
    but less random batches.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(lengths))
    window = batch_size * window_batches
    batches: list[list[int]] = []
    for start in range(0, len(order), window):
        part = sorted(order[start : start + window].tolist(), key=lambda i: lengths[i])
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


def ordered_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices of all examples, in batches sorted by length: for evaluation."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
