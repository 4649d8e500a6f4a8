"""Transcripts of clips by Whisper, in the cache (`rellm transcribe`).

A clip is done when the file of this transcriber has its id with the digest of its audio. A clip
that fails is listed with the reason and has no transcript. A transcript may be empty.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic

import numpy as np
import torch

from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import TranscriberSpec
from rellm_cache.corpus.audio import Clip, load_clip
from rellm_cache.corpus.clip_limits import ClipLimits, read_limits
from rellm_cache.corpus.manifest import Utterance, read_manifests
from rellm_cache.data.sampler import ordered_batches
from rellm_cache.encoders.whisper_transcriber import (
    Transcription,
    WhisperTranscriber,
    resolve_transcriber,
)
from rellm_cache.errors import AudioError, ConfigError, ManifestError
from rellm_cache.extraction.failures import record_failures
from rellm_cache.extraction.messages import Failure
from rellm_cache.extraction.missing import read_digests
from rellm_cache.extraction.oom_split import OomSplitter
from rellm_cache.metrics.word_error_rate import WordErrors, normalize_words, word_errors
from rellm_cache.store.format import WRITING, failures_path
from rellm_cache.store.remote.mirror import sync_mirror
from rellm_cache.store.remote.mirror_paths import origin_url
from rellm_cache.store.remote.upload import upload_file
from rellm_cache.store.transcripts import (
    Transcript,
    file_lines,
    parse_transcript,
    read_transcripts_file,
    transcripts_path,
)
from rellm_cache.utils.atomic_files import write_lines
from rellm_cache.utils.console import progress
from rellm_cache.utils.devices import default_device, forward_batch_size
from rellm_cache.utils.locks import hold_lock, lock_path
from rellm_cache.utils.resumable_table import FINGERPRINT, ResultTable, Row
from rellm_cache.workers.options import Shard, WorkerOptions
from rellm_cache.workers.rows import MakeRows, Rows, RowTask, make_rows
from rellm_cache.workers.shards import Output, hold_output


@dataclass(frozen=True)
class TranscribeReport:
    """What `transcribe` did."""

    path: Path  # file of the transcripts
    failures: Path  # file that lists failed clips, if there are any
    transcribed: int  # clips transcribed in this call
    present: int  # clips that already had a transcript
    changed: int  # clips of this call that had a transcript of other audio before
    failed: int  # clips that could not be transcribed
    empty: int  # empty transcripts
    cut: int  # transcripts that end at the limit of tokens
    hours: float  # hours of audio transcribed in this call
    seconds: float  # duration of the call
    errors: WordErrors | None  # compared with the manifests' texts; None if no clip has one
    emotion_errors: dict[str, WordErrors]  # emotion → word errors


@dataclass
class _Work:
    """State of a call: transcripts so far, clips that wait, and clips that failed."""

    table: ResultTable
    known: dict[str, Transcript]
    limits: dict[str, ClipLimits]  # by clip id
    waiting: list[Utterance] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)
    failed: dict[str, Failure] = field(default_factory=dict)
    hours: float = 0.0

    def fail(self, utterance: Utterance, error: AudioError) -> None:
        """List a clip as failed."""
        self.failed[utterance.id] = Failure(utterance.id, utterance.audio, str(error))

    def fail_and_remove(self, utterance: Utterance, error: AudioError) -> None:
        """List a clip as failed, and remove its transcript, which is of other audio."""
        self.fail(utterance, error)
        self.known.pop(utterance.id, None)


def transcribe(
    manifests: Sequence[Path],
    recipe: Recipe,
    cache: Path,
    batch_size: int = 16,
    device: torch.device | None = None,
    options: WorkerOptions | None = None,
) -> TranscribeReport:
    """Transcribe the clips that have no transcript by this recipe's transcriber.

    A killed call resumes. A second call at the same time waits for the first.

    Args:
        manifests: files or folders; a clip may be in several.
        cache: root of the stores; for a URL, the folder that `open_mirror` returns.
        options: workers and shard; None does all work in this process.

    Raises:
        ConfigError: the recipe has no transcriber, or its model cannot be used; or a shard is asked
            for with a cache at a URL.
        ManifestError: a manifest cannot be read, or two use one id for different audio.
        StoreError: the file of transcripts was altered.
    """
    start, options = monotonic(), options or WorkerOptions()
    limits = read_clips(manifests)
    spec = resolve_transcriber(recipe.require_transcriber())
    if options.shard is not None and (url := origin_url(cache)):
        raise ConfigError(
            f"--shard {options.shard}: found a cache at {url}, expected a folder that all jobs "
            "see, where each writes its part; use a folder, or --workers or --ray"
        )
    sync_mirror(cache)
    path = transcripts_path(cache, spec)
    limits = {u: own for u, own in limits.items() if options.takes(u.id)}
    with _hold(cache, path, options.shard) as output:
        work = _find_work(limits, path, output.part)
        task = TranscribeTask(batch_size, spec, device=device)
        done = _transcribe(work, task, options)
        with hold_lock(cache / WRITING / f"{path.name}.commit"):  # from other shards
            _commit(work, spec, path, options)
    utterances = list(limits)
    record_failures(path.with_suffix(""), {u.id for u in utterances}, work.failed.values())
    return _report(path, utterances, work, done, monotonic() - start)


@contextmanager
def _hold(cache: Path, path: Path, shard: Shard | None) -> Iterator[Output]:
    """Hold the file of transcripts, or a part of it; wait for another call that holds it."""
    lock = cache / WRITING / path.name
    if shard is None:
        with hold_lock(lock):
            yield Output(None, lambda: True)
        return
    with hold_output(path, shard, lock_path(lock)) as output:
        yield output
    with suppress(OSError):
        lock.parent.rmdir()  # fails while there are other locks


def read_clips(manifests: Sequence[Path]) -> dict[Utterance, ClipLimits]:
    """Utterances of several manifest files or folders, each id once, with their limits.

    Raises:
        ManifestError: a manifest cannot be read, or two use one id for different audio.
    """
    clips: dict[str, Utterance] = {}
    limits: dict[Utterance, ClipLimits] = {}
    for manifest in manifests:
        own = read_limits(manifest)
        for utterance in read_manifests(manifest):
            other = clips.setdefault(utterance.id, utterance)
            limits.setdefault(other, own)
            if (other.audio, other.segment) != (utterance.audio, utterance.segment):
                raise ManifestError(
                    f"{manifest}: id {utterance.id!r} is {utterance.audio} here, but {other.audio} "
                    "in an earlier manifest; transcribe them into different caches"
                )
    return limits


def _find_work(limits: Mapping[Utterance, ClipLimits], path: Path, part: str) -> _Work:
    """Read the file and the journals, and find clips that are in none of them."""
    table = ResultTable(path, finished=map(asdict, _committed(path).values()), part=part)
    known = {name: _transcript(table, name) for name in table}
    work = _Work(table, known, {u.id: own for u, own in limits.items()})
    digests = read_digests([u for u in limits if u.id in known])
    for utterance in limits:
        digest = digests.get(utterance.id)
        if isinstance(digest, AudioError):
            work.fail(utterance, digest)
        elif digest is None:
            work.waiting.append(utterance)
        elif _hex(digest) != known[utterance.id].audio_sha256:
            work.waiting.append(utterance)
            work.changed.add(utterance.id)
    return work


@dataclass(frozen=True)
class _Heard:
    """What the model made of one clip."""

    digest: str  # of its audio, hex
    seconds: float
    transcription: Transcription


@dataclass(frozen=True)
class TranscribeTask(RowTask):
    """The task of a worker that transcribes clips, or lists them as failed."""

    spec: TranscriberSpec

    def load(self, note: Callable[[str], None]) -> MakeRows:
        """Load the model."""
        device = self.device or default_device()
        model = WhisperTranscriber(self.spec, device)
        splitter = OomSplitter(model.transcribe, self.spec.slug, device, note)
        size = forward_batch_size(device, self.batch_size)

        def transcribe(clips: Sequence[tuple[Utterance, ClipLimits]]) -> Rows:
            limits = dict(clips)
            for utterances in _batches([*limits], size):
                loaded: dict[str, Clip] = {}
                for utterance in utterances:
                    try:
                        loaded[utterance.id] = load_clip(utterance, limits[utterance])
                    except AudioError as error:
                        yield utterance.id, error
                texts = splitter.run(list(loaded.values()))
                for (name, clip), text in zip(loaded.items(), texts, strict=True):
                    if isinstance(text, AudioError):
                        yield name, text
                    else:
                        yield name, _Heard(_hex(clip.digest), clip.seconds, text)

        return transcribe


def _transcribe(work: _Work, task: TranscribeTask, options: WorkerOptions) -> set[str]:
    """Transcribe waiting clips and log each in the journal; return the transcribed ids."""
    done: set[str] = set()
    clips = {u.id: (u, work.limits[u.id]) for batch in _batches(work.waiting, 1) for u in batch}
    if not clips:
        return done
    with (
        progress("Transcribing", len(clips), "clips") as tick,
        work.table,
        closing(make_rows(task, clips, "clip", options)) as rows,
    ):
        for name, heard in rows:
            if isinstance(heard, AudioError):
                work.fail_and_remove(clips[name][0], heard)
            else:
                fields = {"text": heard.transcription.text, "cut": heard.transcription.cut}
                work.table.add(name, heard.digest, **fields)
                work.known[name] = _transcript(work.table, name)
                work.hours += heard.seconds / 3600
                done.add(name)
            tick(1, f"{work.hours:.2f} h of audio")
    return done


def _batches(utterances: Sequence[Utterance], size: int) -> Iterator[list[Utterance]]:
    """Batches of utterances of similar duration, because their texts have similar lengths."""
    durations = [round(1000 * (u.duration or 0.0)) for u in utterances]
    for indices in ordered_batches(durations, size):
        yield [utterances[i] for i in indices]


def _commit(work: _Work, spec: TranscriberSpec, path: Path, options: WorkerOptions) -> None:
    """Replace the file atomically; keep the journal until a mirror has uploaded the file.

    Transcripts of other shards are those that the file has now.
    """
    committed = _committed(path)
    known = {name: row for name, row in committed.items() if not options.takes(name)}
    known |= {name: row for name, row in work.known.items() if options.takes(name)}

    def write(path: Path, rows: list[Row]) -> None:
        write_lines(path, rows)
        upload_file(path)

    if known != committed or work.table.has_journal:
        rows = file_lines(spec, WhisperTranscriber.licence, known.values())
        work.table.finish(rows, write)


def _transcript(table: ResultTable, name: str) -> Transcript:
    row = {"audio_sha256" if k == FINGERPRINT else k: v for k, v in table[name].items()}
    return parse_transcript(row, str(table.journal))


def _committed(path: Path) -> dict[str, Transcript]:
    return read_transcripts_file(path) if path.exists() else {}


def _report(
    path: Path, utterances: Sequence[Utterance], work: _Work, done: set[str], seconds: float
) -> TranscribeReport:
    found = [(u, work.known[u.id]) for u in utterances if u.id in work.known]
    compared = [(u, transcript.text) for u, transcript in found if normalize_words(u.text)]
    emotions = sorted({u.emotion for u, _ in compared if u.emotion})
    return TranscribeReport(
        path=path,
        failures=failures_path(path.with_suffix("")),
        transcribed=len(done),
        present=len(utterances) - len(done) - len(work.failed),
        changed=len(work.changed),
        failed=len(work.failed),
        empty=sum(not transcript.text for _, transcript in found),
        cut=sum(transcript.cut for _, transcript in found),
        hours=work.hours,
        seconds=seconds,
        errors=_errors(compared) if compared else None,
        emotion_errors={e: _errors([c for c in compared if c[0].emotion == e]) for e in emotions},
    )


def _errors(compared: Sequence[tuple[Utterance, str]]) -> WordErrors:
    """Word errors of transcripts compared with the texts of their utterances."""
    return word_errors([u.text for u, _ in compared], [text for _, text in compared])


def _hex(digest: np.ndarray) -> str:
    return digest.tobytes().hex()
