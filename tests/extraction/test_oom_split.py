"""Batches that run out of GPU memory, or hold a clip that the encoder refuses, are split."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from rellm_cache.corpus.audio import Clip
from rellm_cache.encoders.base import Encoding
from rellm_cache.errors import AudioError
from rellm_cache.extraction.oom_split import OomSplitter

GPU = torch.device("cuda")  # only a name: nothing runs there
Say = Callable[[str], None]


class SmallGpu:
    """Encoder that has memory for `room` seconds; refuses clips that begin with a NaN."""

    def __init__(self, room: float) -> None:
        self.room = room
        self.sizes: list[int] = []

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[Encoding]:
        self.sizes.append(len(waveforms))
        if sum(map(len, waveforms)) > self.room * 16_000:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        if any(np.isnan(w[0]) for w in waveforms):
            raise AudioError("not finite")
        return [Encoding(np.full((1, 2), w[0], np.float32)) for w in waveforms]


def clips(*values: float, seconds: float = 1.0) -> list[Clip]:
    samples = int(seconds * 16_000)
    digest = np.zeros(32, np.uint8)
    return [Clip(np.full(samples, v, np.float32), digest, 16_000, 1) for v in values]


def splitter_of(
    gpu: SmallGpu, device: torch.device = GPU, say: Say = print
) -> OomSplitter[Encoding]:
    return OomSplitter(gpu.encode, "prosody", device, say)


def firsts(results: list[Encoding | AudioError]) -> list[float | str]:
    return [r.frames[0, 0] if isinstance(r, Encoding) else str(r) for r in results]


def test_out_of_memory_halves_the_batch_and_says_so_once() -> None:
    said: list[str] = []
    gpu = SmallGpu(room=3)
    encoder = splitter_of(gpu, say=said.append)
    assert firsts(encoder.run(clips(*range(8)))) == list(range(8))
    assert gpu.sizes == [8, 4, 2, 2, 4, 2, 2]
    assert said == [
        "prosody: out of GPU memory with 8 clips at a time; continuing with 4 or fewer. Use "
        "--batch-size 4 to avoid the retries"
    ]
    gpu.sizes.clear()
    assert firsts(encoder.run(clips(*range(5)))) == list(range(5))
    assert gpu.sizes == [2, 2, 1]
    assert len(said) == 1


def test_an_odd_batch_is_split_into_all_of_its_clips() -> None:
    said: list[str] = []
    gpu = SmallGpu(room=4)
    assert firsts(splitter_of(gpu, say=said.append).run(clips(*range(7)))) == list(range(7))
    (text,) = said
    assert "out of GPU memory with 7 clips at a time; continuing with 3 or fewer" in text


def test_a_clip_too_large_for_the_gpu_fails_alone() -> None:
    encoder = splitter_of(SmallGpu(room=3))
    first, second, third = encoder.run([*clips(1), *clips(2, seconds=5), *clips(3)])
    assert firsts([first, third]) == [1, 3]
    assert isinstance(second, AudioError)
    assert str(second).startswith("clip of 5.0 s: out of GPU memory though encoded alone; cut it")


def test_a_refused_clip_fails_alone() -> None:
    encoder = splitter_of(SmallGpu(room=99))
    assert firsts(encoder.run(clips(1, 2, float("nan"), 4))) == [1, 2, "not finite", 4]
    assert encoder.limit is None


def test_a_cpu_takes_one_clip_at_a_time() -> None:
    encoder = SmallGpu(room=99)
    splitter = splitter_of(encoder, torch.device("cpu"))
    assert firsts(splitter.run(clips(*range(3)))) == [0, 1, 2]
    assert encoder.sizes == [1, 1, 1]


def test_other_errors_are_not_hidden() -> None:
    class Faulty(SmallGpu):
        def encode(self, waveforms: Sequence[np.ndarray]) -> list[Encoding]:
            raise RuntimeError("a programming error")

    with pytest.raises(RuntimeError, match="a programming error"):
        splitter_of(Faulty(1)).run(clips(1, 2))
