"""What extraction would take. In: stores, clips they lack. Out: size, time and memory.

A few missing clips, spread evenly over the lengths, are decoded and encoded here and now:

- time: their mean cost, times the clips that are missing;
- memory: this process with the models loaded, plus what encoding the timed clips added, scaled to a
  full batch (on a CPU, to one clip) as long as the longest of them, plus the open parts. On a GPU,
  the models and the batch are counted there.
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import torch

from rellm_cache.corpus.audio import SAMPLE_RATE, Clip
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.encoders.base import FrameEncoder, whisper_frame_count
from rellm_cache.encoders.registry import build_encoder
from rellm_cache.extraction.messages import MissingClip
from rellm_cache.extraction.missing import TargetStore
from rellm_cache.extraction.oom_split import OomSplitter
from rellm_cache.extraction.pipeline import try_load
from rellm_cache.store.writer import PART_BYTES
from rellm_cache.utils.console import say
from rellm_cache.utils.devices import clips_at_a_time, default_device

ROW_BYTES = 72  # offsets, digest and checksum of a clip, and a short id
SAMPLING_SECONDS = 0.002


@dataclass(frozen=True)
class StreamPlan:
    """What one encoder's store would take.

    Attributes:
        name: of the stream.
        store: its folder.
        present: clips of the manifest that it holds.
        missing: clips to encode.
        frame_size: D.
        bytes: that its missing frames will take, two bytes a value and a little for each clip.
        seconds: estimated for encoding them here; None where no clip could be timed.
    """

    name: str
    store: str
    present: int
    missing: int
    frame_size: int
    bytes: int
    seconds: float | None


@dataclass(frozen=True)
class ExtractionPlan:
    """What extraction would take, in one process.

    Attributes:
        streams: in the recipe's order; of streams that share a store, the first has the work.
        timed_clips: that the estimates rest on.
        decode_seconds: estimated for decoding; overlapped with encoding.
        seconds: estimated in all: the encoders', one after another, or decoding where it is slower;
            None where no clip could be timed.
        memory_bytes: of this process, estimated.
        gpu_bytes: on the GPU, estimated; 0 without one.
    """

    streams: list[StreamPlan]
    timed_clips: int
    decode_seconds: float
    seconds: float | None
    memory_bytes: int
    gpu_bytes: int

    @property
    def size(self) -> int:
        """Bytes that the missing frames will take in all stores."""
        return sum(stream.bytes for stream in self.streams)


@dataclass(frozen=True)
class _Trial:
    """An encoder tried on a few clips; bytes that encoding added, and of the model on a GPU."""

    encoder: FrameEncoder
    seconds_a_clip: float | None
    batch_bytes: int
    model_bytes: int


def plan_extraction(
    targets: Mapping[str, TargetStore],
    missing: Sequence[MissingClip],
    seconds: dict[str, float],
    total: int,
    clips: int,
    batch_size: int,
) -> ExtractionPlan:
    """Try the encoders on a few missing clips.

    Args:
        seconds: of each clip by id; those that cannot be read are left out.
        total: clips of the manifest.
        clips: how many are decoded and encoded.
        batch_size: clips that are to be encoded at a time.
    """
    timed, decode_seconds = _decode(_spread_out(missing, seconds, clips))
    device = default_device()
    trials = {t: _try_stream(t, device, timed) for t in dict.fromkeys(targets.values())}
    streams: list[StreamPlan] = []
    for name, target in targets.items():
        planned = any(stream.store == str(target.path) for stream in streams)
        left = [] if planned else missing
        streams.append(_plan_stream(name, target, trials[target], left, seconds, total))
    encoding = [stream.seconds for stream in streams if stream.seconds is not None]
    decoding = decode_seconds / max(len(timed), 1) * len(missing)
    longest = max((clip.seconds for clip in timed), default=0.0)
    mean = sum(clip.seconds for clip in timed) / max(len(timed), 1)
    tried, together = (clips_at_a_time(device, n) for n in (len(timed), batch_size))
    scale = min(together, len(missing)) * longest / max(mean * tried, 1e-9)
    batch = int(max((trial.batch_bytes for trial in trials.values()), default=0) * scale)
    parts = sum(min(PART_BYTES, stream.bytes) for stream in streams)
    on_gpu = device.type == "cuda"
    models = sum(trial.model_bytes for trial in trials.values())
    return ExtractionPlan(
        streams=streams,
        timed_clips=len(timed),
        decode_seconds=decoding,
        seconds=max(sum(encoding), decoding) if len(encoding) == len(streams) else None,
        memory_bytes=_resident_bytes() + parts + (0 if on_gpu else batch),
        gpu_bytes=models + batch if on_gpu else 0,
    )


def _spread_out(
    missing: Sequence[MissingClip], seconds: dict[str, float], count: int
) -> list[Utterance]:
    """`count` of the missing clips, evenly over their lengths."""
    known = [work.utterance for work in missing if work.utterance.id in seconds]
    known.sort(key=lambda u: seconds[u.id])
    count = min(count, len(known))
    return [known[(2 * i + 1) * len(known) // (2 * count)] for i in range(count)]


def _decode(utterances: Sequence[Utterance]) -> tuple[list[Clip], float]:
    begun = monotonic()
    clips = [clip for u in utterances if isinstance(clip := try_load(u), Clip)]
    return clips, monotonic() - begun


def _try_stream(target: TargetStore, device: torch.device, clips: Sequence[Clip]) -> _Trial:
    """Load an encoder, run it once for memory (and to warm up), and once for time."""
    gpu = device.type == "cuda"
    before = torch.cuda.memory_allocated() if gpu else 0
    encoder = build_encoder(target.spec, device)
    model = torch.cuda.memory_allocated() - before if gpu else 0
    if not clips:
        return _Trial(encoder, None, 0, model)
    splitter = OomSplitter(encoder.encode, target.spec.slug, device, say)
    with _peak_bytes(device) as peak:
        splitter.run(clips)
    begun = monotonic()
    splitter.run(clips)
    return _Trial(encoder, (monotonic() - begun) / len(clips), peak(), model)


def _plan_stream(
    name: str,
    target: TargetStore,
    trial: _Trial,
    missing: Sequence[MissingClip],
    seconds: dict[str, float],
    total: int,
) -> StreamPlan:
    mine = [w.utterance.id for w in missing if target.fingerprint in w.missing_from]
    frames = sum(whisper_frame_count(round(seconds.get(i, 0) * SAMPLE_RATE)) for i in mine)
    cost = trial.seconds_a_clip
    return StreamPlan(
        name=name,
        store=str(target.path),
        present=total - len(mine) - len(target.failed),
        missing=len(mine),
        frame_size=trial.encoder.frame_size,
        bytes=frames * trial.encoder.frame_size * 2 + len(mine) * ROW_BYTES,
        seconds=0.0 if not mine else None if cost is None else cost * len(mine),
    )


@contextmanager
def _peak_bytes(device: torch.device) -> Iterator[Callable[[], int]]:
    """How many bytes above the start the memory of the device, or this process, went at most."""
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
    """Memory of this process; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
