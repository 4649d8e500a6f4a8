"""Batch loader: batches equal those collated one by one, in any process, without leaks."""

import itertools
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.data.batch import Batch, Example
from rellm_cache.data.collate import collate
from rellm_cache.data.loader import BatchLoader
from rellm_cache.data.sampler import bucketed_batches, ordered_batches
from rellm_cache.data.streams import StreamSet
from rellm_cache.errors import StoreError
from rellm_cache.store.format import StoreInfo
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.writer import StoreWriter

CLIPS = 40
EXAMPLES = [Example(f"clip/{i:02d}", emotion=i % 5) for i in range(CLIPS)]


@pytest.fixture
def streams(tmp_path: Path) -> StreamSet:
    """Two stores of forty clips; the emotion stream is a frame longer, and clips span shards."""
    random = np.random.default_rng(1)
    stores = {}
    for name, size, layer in (("speech", 8, 1), ("emotion", 5, 2)):
        spec = EncoderSpec(kind="whisper", model="m", weights_sha256="0" * 64, layer=layer)
        info = StoreInfo(spec, size, "none", shard_bytes=512 * 8 * 2)
        with StoreWriter(tmp_path, info) as writer:
            for index, example in enumerate(EXAMPLES):
                made = random.normal(size=(20 + 7 * index + layer, size))
                writer.add(example.id, np.zeros(32, np.uint8), made)
                if index == CLIPS // 2:
                    writer.commit()
        stores[name] = FeatureStore(writer.path)
    return StreamSet(stores)


def same(a: Batch, b: Batch) -> bool:
    return (
        a.ids == b.ids
        and list(a.streams) == list(b.streams)
        and all(torch.equal(frames, b.streams[name]) for name, frames in a.streams.items())
        and torch.equal(a.frame_lengths, b.frame_lengths)
        and torch.equal(a.emotions, b.emotions)
    )


def one_by_one(plan: list[list[int]], streams: StreamSet) -> Iterator[Batch]:
    return (collate([EXAMPLES[i] for i in indices], streams) for indices in plan)


@pytest.mark.parametrize("reuse_memory", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_batches_equal_those_collated_one_by_one(
    streams: StreamSet, threads: int, reuse_memory: bool
) -> None:
    loader = BatchLoader(EXAMPLES, streams, threads=threads)
    for epoch in range(3):
        plan = bucketed_batches(loader.lengths, 3, seed=1, epoch=epoch)
        read = loader.batches(plan, reuse_memory)
        for mine, expected in zip(read, one_by_one(plan, streams), strict=True):
            assert same(mine, expected)


def test_batches_stay_valid_unless_memory_is_reused(streams: StreamSet) -> None:
    loader = BatchLoader(EXAMPLES, streams)
    plan = bucketed_batches(loader.lengths, 3, seed=1, epoch=0)
    kept = list(loader.batches(plan))
    assert all(map(same, kept, one_by_one(plan, streams)))
    reused = list(loader.batches(plan, reuse_memory=True))
    assert not all(map(same, reused, one_by_one(plan, streams)))  # the caller asked for it
    assert all(map(same, kept, one_by_one(plan, streams)))


def test_a_whole_group_is_valid_until_the_next(streams: StreamSet) -> None:
    loader = BatchLoader(EXAMPLES, streams)
    batches = bucketed_batches(loader.lengths, 3, seed=1, epoch=0)
    plan = [batches[i : i + 4] for i in range(0, len(batches), 4)]
    for group, indices in zip(loader.groups(plan, reuse_memory=True), plan, strict=True):
        assert len(group) == len(indices)
        for mine, expected in zip(group, one_by_one(indices, streams), strict=True):
            assert same(mine, expected)


def test_reused_memory_does_not_grow(streams: StreamSet) -> None:
    loader = BatchLoader(EXAMPLES, streams)
    addresses: list[set[int]] = []
    for epoch in range(4):
        plan = bucketed_batches(loader.lengths, 3, seed=1, epoch=epoch)
        addresses.append(
            {b.streams["speech"].data_ptr() for b in loader.batches(plan, reuse_memory=True)}
        )
        (low, high) = min(addresses[0]), max(addresses[0])
    largest = collate(EXAMPLES[-3:], streams).streams["speech"].nbytes
    assert high - low < 8 * largest  # of fourteen batches an epoch
    every = set().union(*addresses)
    assert max(every) - min(every) < 8 * largest  # one block for all epochs


def test_an_epoch_continued_at_any_step_has_the_same_batches(streams: StreamSet) -> None:
    loader = BatchLoader(EXAMPLES, streams)
    plan = bucketed_batches(loader.lengths, 4, seed=3, epoch=2)
    whole = [b.ids for b in loader.batches(plan)]
    for step in (1, 5, len(plan)):
        assert [b.ids for b in BatchLoader(EXAMPLES, streams).batches(plan[step:])] == whole[step:]


def test_empty_groups_and_plans(streams: StreamSet) -> None:
    loader = BatchLoader(EXAMPLES, streams)
    assert list(loader.groups([])) == []
    assert [len(g) for g in loader.groups([[], [[0], [1]], []])] == [0, 2, 0]
    assert list(BatchLoader([], streams).batches([])) == []


def test_two_iterations_at_once_do_not_share_memory(streams: StreamSet) -> None:
    loader = BatchLoader(EXAMPLES, streams)
    plan = ordered_batches(loader.lengths, 4)
    for a, b, expected in zip(
        loader.batches(plan, reuse_memory=True),
        loader.batches(plan, reuse_memory=True),
        one_by_one(plan, streams),
        strict=True,
    ):
        assert same(a, expected)
        assert same(b, expected)
        assert a.streams["speech"].data_ptr() != b.streams["speech"].data_ptr()


def test_closing_an_iteration_ends_its_threads(streams: StreamSet) -> None:
    before = threading.active_count()
    loader = BatchLoader(EXAMPLES, streams)
    plan = ordered_batches(loader.lengths, 2)
    iterator = loader.batches(plan)
    next(iterator)
    assert threading.active_count() > before
    iterator.close()
    assert threading.active_count() == before
    assert [b.ids for b in loader.batches(plan)] == [
        tuple(EXAMPLES[i].id for i in indices) for indices in plan
    ]


def test_a_damaged_store_stops_the_iteration_with_its_name(streams: StreamSet) -> None:
    store = streams.sources["speech"]
    assert isinstance(store, FeatureStore)
    (store.parts[1].path / "frames/c/2/0").unlink()
    loader = BatchLoader(EXAMPLES, streams)
    before = threading.active_count()
    with pytest.raises(StoreError, match=r"part-000002-\w+: damaged: .* cannot be mapped"):
        list(loader.batches(ordered_batches(loader.lengths, 4)))
    assert threading.active_count() == before


def test_a_flipped_bit_stops_the_iteration_and_names_the_repair(streams: StreamSet) -> None:
    store = streams.sources["emotion"]
    assert isinstance(store, FeatureStore)
    file = store.parts[1].path / "frames/c/1/0"
    data = bytearray(file.read_bytes())
    data[1000] ^= 4
    file.write_bytes(data)
    loader = BatchLoader(EXAMPLES, streams)
    with pytest.raises(
        StoreError,
        match=r"part-000002-\w+: damaged: frames of 'clip/\d\d' .* `rellm cache repair .*` keeps",
    ):
        list(loader.batches(ordered_batches(loader.lengths, 4)))


def test_an_example_that_is_not_cached_is_named(streams: StreamSet) -> None:
    with pytest.raises(StoreError, match="no clip 'clip/99'"):
        BatchLoader([*EXAMPLES, Example("clip/99")], streams)


def sums(loader: BatchLoader) -> list[float]:
    """Sum of the speech frames of each batch."""
    plan = ordered_batches(loader.lengths, 4)
    return [float(b.streams["speech"].double().sum()) for b in loader.batches(plan)]


def send_sums(loader: BatchLoader, pipe: Any) -> None:
    pipe.send(sums(loader))
    pipe.close()


def in_child(context: Any, target: Callable[..., None], argument: object) -> Any:
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=target, args=(argument, sender))
    child.start()
    sender.close()
    assert receiver.poll(60)
    received = receiver.recv()
    child.join(60)
    assert child.exitcode == 0
    return received


def test_a_loader_can_be_sent_to_a_spawned_process(streams: StreamSet) -> None:
    loader = BatchLoader(EXAMPLES, streams)
    expected = sums(loader)  # shards are mapped and a ring exists by now
    assert in_child(multiprocessing.get_context("spawn"), send_sums, loader) == expected


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_in_the_middle_of_an_epoch(streams: StreamSet) -> None:
    loader = BatchLoader(EXAMPLES, streams)
    expected = sums(loader)
    plan = ordered_batches(loader.lengths, 4)
    iterator = loader.batches(plan)
    first = [float(b.streams["speech"].double().sum()) for b in itertools.islice(iterator, 3)]
    context = multiprocessing.get_context("fork")
    assert in_child(context, send_sums, loader) == expected
    message = in_child(context, send_refusal, iterator)
    assert "began before a fork" in message
    rest = [float(b.streams["speech"].double().sum()) for b in iterator]
    assert first + rest == expected  # the parent was not disturbed


def send_refusal(iterator: Iterator[Batch], pipe: Any) -> None:
    try:
        next(iterator)
    except RuntimeError as error:
        pipe.send(str(error))
    pipe.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_maps_do_not_cross_a_fork(streams: StreamSet) -> None:
    store = streams.sources["speech"]
    assert isinstance(store, FeatureStore)
    store.frames("clip/05")
    assert mapped(store) > 0
    assert in_child(multiprocessing.get_context("fork"), send_mapped, store) == (0, 1)


def mapped(store: FeatureStore) -> int:
    """How many shard files this process has mapped, as the kernel lists them."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sum(str(store.path) in line for line in lines)


def send_mapped(store: FeatureStore, pipe: Any) -> None:
    before = mapped(store)
    store.frames("clip/00")
    pipe.send((before, mapped(store)))
    pipe.close()
