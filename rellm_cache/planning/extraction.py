"""Extraction estimates of time, memory and disk: a few of the missing clips are encoded.

These sample clips cover the range of lengths.

- Time: mean time of a sample clip, multiplied by the number of missing clips.
- Memory: the process with its models, the increase during encoding, and the open parts. The
  increase is scaled to a full batch (on a CPU to one clip) of the longest sample clip. On a GPU,
  models and batch count as GPU memory.
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

import numpy as np
import torch

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.corpus.audio import Clip
from rellm_cache.corpus.clip_limits import SAMPLE_RATE, ClipLimits
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.encoders.base import whisper_frame_count
from rellm_cache.encoders.registry import build_encoder
from rellm_cache.extraction.messages import MissingClip
from rellm_cache.extraction.missing import TargetStore
from rellm_cache.extraction.oom_split import OomSplitter
from rellm_cache.extraction.pipeline import try_load
from rellm_cache.store.writer import PART_BYTES
from rellm_cache.utils.console import say
from rellm_cache.utils.devices import default_device, forward_batch_size

ROW_BYTES = 72  # for each clip: offsets, digest, checksum and a short id
SAMPLING_SECONDS = 0.002


@dataclass(frozen=True)
class StreamPlan:
    """Estimates for the store of one stream."""

    name: str  # of the stream
    store: str  # its folder
    present: int  # clips of the manifest that it holds
    missing: int  # clips to encode
    frame_size: int  # values in a frame of the stream: D of each of its layers
    bytes: int  # size of the missing frames, two bytes a value and `ROW_BYTES` a clip
    seconds: float | None  # time to encode them on this machine; None if no clip could be timed


@dataclass(frozen=True)
class ExtractionPlan:
    """Estimates for an extraction in one process."""

    streams: list[StreamPlan]  # if several share a store, the first has the estimates
    timed_clips: int  # number of clips encoded for the estimates
    decode_seconds: float  # time to decode, in parallel with encoding
    seconds: float | None  # of all encoders, or of decoding if slower; None if not timed
    memory_bytes: int  # of this process
    gpu_bytes: int  # on the GPU; 0 without one

    @property
    def size(self) -> int:
        """Bytes of the missing frames in all stores."""
        return sum(stream.bytes for stream in self.streams)


@dataclass(frozen=True)
class UsableClips:
    """The clips of a manifest that can be encoded."""

    seconds: dict[str, float]  # clip id → duration
    limits: ClipLimits  # with which they are decoded
    total: int  # clips in the manifest, with unusable ones


@dataclass(frozen=True)
class _Measurement:
    """An encoder measured on a few clips."""

    frame_size: int  # D, values in a frame of one layer
    seconds_a_clip: float | None  # mean; None without clips
    batch_bytes: int  # increase of memory during encoding
    model_bytes: int  # of the model on a GPU; 0 on a CPU


def plan_extraction(
    encoders: Mapping[str, EncoderSpec],
    targets: Mapping[str, TargetStore],
    missing: Sequence[MissingClip],
    usable: UsableClips,
    clips: int,
    batch_size: int,
) -> ExtractionPlan:
    """Encode a few missing clips with each encoder and extrapolate.

    Args:
        encoders: of the recipe, by stream.
        targets: stream → store.
        clips: number of clips to encode for the estimates.
    """
    missing = [clip for clip in missing if clip.utterance.id in usable.seconds]
    timed, decode_seconds = _decode(_select_by_length(missing, usable.seconds, clips), usable)
    device = default_device()
    measured = {t: _measure(t, device, timed) for t in dict.fromkeys(targets.values())}
    streams: list[StreamPlan] = []
    for name, target in targets.items():
        planned = any(stream.store == str(target.path) for stream in streams)
        left = [] if planned else missing
        planned_stream = _plan_stream(name, target, measured[target], left, usable)
        read = encoders[name].layers_within(target.spec) or (encoders[name].layer,)
        size = measured[target].frame_size * len(read)
        streams.append(replace(planned_stream, frame_size=size))
    encoding = [stream.seconds for stream in streams if stream.seconds is not None]
    decoding = decode_seconds / max(len(timed), 1) * len(missing)
    longest = max((clip.seconds for clip in timed), default=0.0)
    mean = sum(clip.seconds for clip in timed) / max(len(timed), 1)
    tried, together = (forward_batch_size(device, n) for n in (len(timed), batch_size))
    scale = min(together, len(missing)) * longest / max(mean * tried, 1e-9)
    batch = int(max((m.batch_bytes for m in measured.values()), default=0) * scale)
    parts = sum(min(PART_BYTES, stream.bytes) for stream in streams)
    on_gpu = device.type == "cuda"
    models = sum(m.model_bytes for m in measured.values())
    return ExtractionPlan(
        streams=streams,
        timed_clips=len(timed),
        decode_seconds=decoding,
        seconds=max(sum(encoding), decoding) if len(encoding) == len(streams) else None,
        memory_bytes=_resident_bytes() + parts + (0 if on_gpu else batch),
        gpu_bytes=models + batch if on_gpu else 0,
    )


def _select_by_length(
    missing: Sequence[MissingClip], seconds: dict[str, float], count: int
) -> list[Utterance]:
    """Select `count` missing clips at evenly spaced ranks of length."""
    lengths = np.array([seconds[clip.utterance.id] for clip in missing])
    order = np.argsort(lengths, kind="stable")
    count = min(count, len(order))
    ranks = [(2 * i + 1) * len(order) // (2 * count) for i in range(count)]
    return [missing[order[rank]].utterance for rank in ranks]


def _decode(utterances: Sequence[Utterance], usable: UsableClips) -> tuple[list[Clip], float]:
    begun = monotonic()
    clips = [clip for u in utterances if isinstance(clip := try_load(u, usable.limits), Clip)]
    return clips, monotonic() - begun


def _measure(target: TargetStore, device: torch.device, clips: Sequence[Clip]) -> _Measurement:
    """Load an encoder, run it once for memory and to warm up, and once for time."""
    gpu = device.type == "cuda"
    before = torch.cuda.memory_allocated() if gpu else 0
    encoder = build_encoder(target.spec, device)
    model = torch.cuda.memory_allocated() - before if gpu else 0
    if not clips:
        return _Measurement(encoder.frame_size, None, 0, model)
    splitter = OomSplitter(encoder.encode, target.spec.slug, device, say)
    with _peak_bytes(device) as peak:
        splitter.run(clips)
    begun = monotonic()
    splitter.run(clips)
    seconds = (monotonic() - begun) / len(clips)
    return _Measurement(encoder.frame_size, seconds, peak(), model)


def _plan_stream(
    name: str,
    target: TargetStore,
    measured: _Measurement,
    missing: Sequence[MissingClip],
    usable: UsableClips,
) -> StreamPlan:
    mine = [c.utterance.id for c in missing if target.fingerprint in c.missing_from]
    samples = np.rint(np.array([usable.seconds[i] for i in mine]) * SAMPLE_RATE).astype(np.int64)
    rate = target.spec.frame_rate
    counts = whisper_frame_count(samples) if rate == 50 else np.ceil(samples / SAMPLE_RATE * rate)
    frames = int(counts.sum())
    cost, layers = measured.seconds_a_clip, max(1, len(target.spec.layer_numbers))
    return StreamPlan(
        name=name,
        store=str(target.path),
        present=usable.total - len(mine) - len(target.failed),
        missing=len(mine),
        frame_size=measured.frame_size,
        bytes=frames * measured.frame_size * layers * 2 + len(mine) * ROW_BYTES,
        seconds=0.0 if not mine else None if cost is None else cost * len(mine),
    )


@contextmanager
def _peak_bytes(device: torch.device) -> Iterator[Callable[[], int]]:
    """Yield a function that gives the peak increase of memory on the GPU or in this process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield lambda: torch.cuda.max_memory_allocated() - before
        return
    before = highest = _resident_bytes()
    ended = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not ended.wait(SAMPLING_SECONDS):
            highest = max(highest, _resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lambda: highest - before
    finally:
        ended.set()
        watcher.join()


def _resident_bytes() -> int:
    """Resident memory of this process; 0 if the system does not report it."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
