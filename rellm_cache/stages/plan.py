"""plan. In: a manifest, a recipe and a cache. Out: what its stages would take, nothing written.

Training is counted from the recipe (`training_plan`); extraction is tried on a few clips.

Size is exact where the manifest gives durations. Time and memory are estimated from a few missing
clips, spread evenly over the lengths, that are decoded and encoded here and now:

- time: their mean cost, times the clips that are missing;
- memory: this process with the models loaded, plus what encoding the timed clips added, scaled to a
  full batch (on a CPU, to one clip) as long as the longest of them, plus the open parts. On a GPU,
  the models and the batch are counted there.
"""

import dataclasses
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from rellm_cache.config import Recipe
from rellm_cache.corpus.audio import SAMPLE_RATE, Clip, audio_seconds
from rellm_cache.corpus.manifest import Utterance, read_manifests
from rellm_cache.devices import clips_at_a_time, default_device
from rellm_cache.encoders.base import FrameEncoder, whisper_frame_count
from rellm_cache.encoders.registry import build_encoder
from rellm_cache.errors import AudioError, ConfigError
from rellm_cache.progress import progress, say
from rellm_cache.stages.extract import make_targets
from rellm_cache.stages.extraction.careful import CarefulEncoder
from rellm_cache.stages.extraction.pipeline import try_load
from rellm_cache.stages.extraction.scan import Target, find_missing
from rellm_cache.stages.extraction.work import Work
from rellm_cache.stages.training_plan import TrainingPlan, plan_training
from rellm_cache.store.origin import copies_bound, origin_of
from rellm_cache.store.writer import PART_BYTES

ROW_BYTES = 72  # offsets, digest and checksum of a clip, and a short id
SAMPLING_SECONDS = 0.002


@dataclass(frozen=True)
class StreamPlan:
    """What one encoder's store would take.

    Attributes:
        store: its folder.
        present: clips of the manifest that it holds.
        missing: clips to encode.
        frame_size: D.
        bytes: that its missing frames will take, two bytes a value and a little for each clip.
        seconds: estimated for encoding them here; None where no clip could be timed.
    """

    store: str
    present: int
    missing: int
    frame_size: int
    bytes: int
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """What extraction and training would take.

    Attributes:
        clips: of the manifest.
        hours: of audio.
        unreadable: clips whose file or header cannot be read.
        streams: by encoder.
        timed_clips: that the estimates rest on.
        decode_seconds: estimated for decoding; overlapped with encoding.
        seconds: estimated in all: the encoders', one after another, or decoding where it is slower.
        memory_bytes: of this process, estimated.
        gpu_bytes: on the GPU, estimated; 0 without one.
        needed_bytes: of disk; of a cache at a URL, what its copy keeps here.
        free_bytes: of the disk that the cache is on.
        training: on this machine, or on the GPU asked about; None if it cannot be counted.
        training_unknown: why not.
    """

    clips: int
    hours: float
    unreadable: int
    streams: list[StreamPlan]
    timed_clips: int
    decode_seconds: float
    seconds: float | None
    memory_bytes: int
    gpu_bytes: int
    needed_bytes: int
    free_bytes: int
    training: TrainingPlan | None
    training_unknown: str

    @property
    def fits(self) -> bool:
        """Whether the disk has room."""
        return self.needed_bytes <= self.free_bytes

    def to_json(self) -> dict[str, Any]:
        """As `plan --json` prints it."""
        found = {**dataclasses.asdict(self), "fits": self.fits}
        if self.training is not None:
            found["training"]["peak_bytes"] = self.training.peak_bytes
        return found


def plan(
    manifest: Path,
    recipe: Recipe,
    cache: Path,
    clips: int = 4,
    batch_size: int = 16,
    gpu_bytes: int | None = None,
) -> Plan:
    """Estimate what `extract` would take, here, in one process, and what `train` would.

    Args:
        clips: how many are decoded and encoded to estimate time and memory.
        gpu_bytes: memory of the GPU that is to train; None trains here.

    Raises:
        ManifestError, ConfigError: the manifest or a model cannot be used.
        StoreError: a store of the cache is damaged.
    """
    utterances = read_manifests(manifest)
    streams = make_targets(recipe, cache)
    missing = find_missing(utterances, streams)
    seconds = _durations(utterances)
    timed, decode_seconds = _decode(_spread_out(missing, seconds, clips))
    device = default_device()
    trials = [_try_stream(target, device, timed) for target in streams]
    plans = [
        _plan_stream(target, trial, missing, seconds, len(utterances))
        for target, trial in zip(streams, trials, strict=True)
    ]
    encoding = [s.seconds for s in plans if s.seconds is not None]
    decoding = decode_seconds / max(len(timed), 1) * len(missing)
    longest = max((clip.seconds for clip in timed), default=0.0)
    mean = sum(clip.seconds for clip in timed) / max(len(timed), 1)
    tried, together = (clips_at_a_time(device, n) for n in (len(timed), batch_size))
    scale = min(together, len(missing)) * longest / max(mean * tried, 1e-9)
    batch = int(max((trial.batch_bytes for trial in trials), default=0) * scale)
    parts = sum(min(PART_BYTES, stream.bytes) for stream in plans)
    size = sum(stream.bytes for stream in plans)
    on_gpu = device.type == "cuda"
    bf16 = on_gpu or gpu_bytes is not None
    training, unknown = None, ""
    try:
        training = plan_training(
            recipe,
            [u for u in utterances if u.split in (None, "train")],
            seconds,
            sum(stream.frame_size for stream in plans),
            torch.bfloat16 if bf16 else torch.float32,
            gpu_bytes,
        )
    except ConfigError as error:
        unknown = str(error)
    models = sum(trial.model_bytes for trial in trials) if on_gpu else 0
    return Plan(
        clips=len(utterances),
        hours=sum(seconds.values()) / 3600,
        unreadable=len(utterances) - len(seconds),
        streams=plans,
        timed_clips=len(timed),
        decode_seconds=decoding,
        seconds=max(sum(encoding), decoding) if len(encoding) == len(plans) else None,
        memory_bytes=_resident_bytes() + parts + (0 if on_gpu else batch),
        gpu_bytes=models + batch if on_gpu else 0,
        needed_bytes=min(size, copies_bound()) if origin_of(cache) else size,
        free_bytes=shutil.disk_usage(_nearest_folder(cache)).free,
        training=training,
        training_unknown=unknown,
    )


@dataclass(frozen=True)
class _Trial:
    """An encoder tried on a few clips; bytes that encoding added, and of the model on a GPU."""

    encoder: FrameEncoder
    seconds_a_clip: float | None
    batch_bytes: int
    model_bytes: int


def _durations(utterances: Sequence[Utterance]) -> dict[str, float]:
    """Seconds by id: the manifest's, or the file's header's; unreadable files are left out."""
    found = {}
    with progress("Reading lengths", len(utterances), "clips") as tick:
        for utterance in utterances:
            tick()
            try:
                found[utterance.id] = utterance.duration or audio_seconds(utterance)
            except AudioError:
                continue
    return found


def _spread_out(missing: Sequence[Work], seconds: dict[str, float], count: int) -> list[Utterance]:
    """`count` of the missing clips, evenly over their lengths."""
    known = [work.utterance for work in missing if work.utterance.id in seconds]
    known.sort(key=lambda u: seconds[u.id])
    count = min(count, len(known))
    return [known[(2 * i + 1) * len(known) // (2 * count)] for i in range(count)]


def _decode(utterances: Sequence[Utterance]) -> tuple[list[Clip], float]:
    begun = monotonic()
    clips = [clip for u in utterances if isinstance(clip := try_load(u), Clip)]
    return clips, monotonic() - begun


def _try_stream(target: Target, device: torch.device, clips: Sequence[Clip]) -> _Trial:
    """Load an encoder, run it once for memory (and to warm up), and once for time."""
    gpu = device.type == "cuda"
    before = torch.cuda.memory_allocated() if gpu else 0
    encoder = build_encoder(target.spec, device)
    model = torch.cuda.memory_allocated() - before if gpu else 0
    if not clips:
        return _Trial(encoder, None, 0, model)
    careful = CarefulEncoder(encoder, device, say)
    with _peak_bytes(device) as peak:
        careful.encode(clips)
    begun = monotonic()
    careful.encode(clips)
    return _Trial(encoder, (monotonic() - begun) / len(clips), peak(), model)


def _plan_stream(
    target: Target, trial: _Trial, missing: Sequence[Work], seconds: dict[str, float], total: int
) -> StreamPlan:
    mine = [w.utterance.id for w in missing if target.fingerprint in w.lacking]
    frames = sum(whisper_frame_count(round(seconds.get(i, 0) * SAMPLE_RATE)) for i in mine)
    cost = trial.seconds_a_clip
    return StreamPlan(
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


def _nearest_folder(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
