"""Sampling of batches: every example once, in an order that follows from seed and epoch alone."""

import itertools

import numpy as np

from rellm_cache.data.sampler import bucketed_batches, ordered_batches


def test_every_example_is_in_one_batch_of_similar_length() -> None:
    lengths = np.random.default_rng(1).integers(50, 1500, 1000).tolist()
    batches = bucketed_batches(lengths, 16, seed=1, epoch=0)
    assert sorted(itertools.chain(*batches)) == list(range(1000))
    padded = sum(max(lengths[i] for i in b) * len(b) for b in batches)
    assert padded < 1.05 * sum(lengths)
    assert max(map(len, batches)) == 16


def test_the_order_follows_from_seed_and_epoch_alone() -> None:
    lengths = list(range(100, 200))
    first = bucketed_batches(lengths, 8, seed=1, epoch=0)
    assert bucketed_batches(lengths, 8, seed=1, epoch=0) == first
    assert bucketed_batches(lengths, 8, seed=1, epoch=1) != first
    assert bucketed_batches(lengths, 8, seed=2, epoch=0) != first


def test_a_wider_window_pads_less() -> None:
    lengths = np.random.default_rng(1).integers(50, 1500, 1000).tolist()

    def padded(window: int) -> int:
        batches = bucketed_batches(lengths, 8, 1, 0, window)
        assert sorted(itertools.chain(*batches)) == list(range(1000))
        return sum(max(lengths[i] for i in b) * len(b) for b in batches)

    assert sum(lengths) < padded(64) < padded(8) < padded(1)
    assert bucketed_batches(lengths, 8, 1, 0, 32) == bucketed_batches(lengths, 8, 1, 0)


def test_evaluation_goes_by_length() -> None:
    assert ordered_batches([5, 1, 4, 2, 3], 2) == [[1, 3], [4, 2], [0]]
    assert ordered_batches([], 2) == []
