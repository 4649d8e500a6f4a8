"""transcribe. In: manifests and a recipe's transcriber. Out: what each clip says, in the cache.

A clip is done when its id and the digest of its audio are among the transcripts of this spec. What
fails is listed with its reason and has no transcript; an empty transcript is one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic

import numpy as np
import torch

from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import TranscriberSpec
from rellm_cache.corpus.audio import Clip, load_clip
from rellm_cache.corpus.manifest import Utterance, read_manifests
from rellm_cache.data.sampler import ordered_batches
from rellm_cache.encoders.whisper_transcriber import WhisperTranscriber, resolve_transcriber
from rellm_cache.errors import AudioError, ManifestError
from rellm_cache.extraction.failures import record_failures
from rellm_cache.extraction.messages import Failure
from rellm_cache.extraction.missing import read_digests
from rellm_cache.extraction.oom_split import OomSplitter
from rellm_cache.metrics.word_error_rate import WordErrors, normalize_words, word_errors
from rellm_cache.store.format import WRITING, failures_path
from rellm_cache.store.locks import hold_lock
from rellm_cache.store.remote.mirror import sync_mirror
from rellm_cache.store.remote.upload import upload_file
from rellm_cache.store.transcripts import (
    Transcript,
    file_lines,
    parse_transcript,
    read_transcripts_file,
    transcriber_spec,
    transcripts_path,
)
from rellm_cache.utils.atomic_files import write_lines
from rellm_cache.utils.console import progress, say
from rellm_cache.utils.devices import clips_at_a_time, default_device
from rellm_cache.utils.result_table import FINGERPRINT, ResultTable, Row


@dataclass(frozen=True)
class TranscribeReport:
    """What was heard in the clips of some manifests.

    Attributes:
        path: of the transcripts.
        transcribed: clips heard now.
        present: clips that had a transcript already.
        changed: of the clips heard or failed now, those that had one of other audio.
        failures: path of the list of failed clips, where there are any.
        failed: clips that could not be heard.
        empty: transcripts without a word.
        cut: transcripts that end at the limit of tokens.
        hours: of audio heard now.
        seconds: it took.
        errors: against the manifests' texts, of the clips that have one; None if none has.
        emotion_errors: the same by emotion.
    """

    path: Path
    failures: Path
    transcribed: int
    present: int
    changed: int
    failed: int
    empty: int
    cut: int
    hours: float
    seconds: float
    errors: WordErrors | None
    emotion_errors: dict[str, WordErrors]


@dataclass
class _Work:
    """What is known of the clips, and what is left to do."""

    table: ResultTable
    known: dict[str, Transcript]
    waiting: list[Utterance] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)
    failed: dict[str, Failure] = field(default_factory=dict)
    hours: float = 0.0

    def fail(self, utterance: Utterance, error: AudioError) -> None:
        """List a clip as failed."""
        self.failed[utterance.id] = Failure(utterance.id, utterance.audio, str(error))

    def lose(self, utterance: Utterance, error: AudioError) -> None:
        """List a clip as failed whose transcript, if it has one, is of other audio."""
        self.fail(utterance, error)
        self.known.pop(utterance.id, None)


def transcribe(
    manifests: Sequence[Path],
    recipe: Recipe,
    cache: Path,
    batch_size: int = 16,
    device: torch.device | None = None,
) -> TranscribeReport:
    """Write down what every clip says that has no transcript by this recipe's transcriber yet.

    Killed at any moment, the same call goes on. Of two at once, the second waits for the first.

    Args:
        manifests: files or folders; a clip may be in several.
        cache: root of the stores; for a URL, what `open_mirror` gives.

    Raises:
        ConfigError: the recipe has no transcriber, or its model cannot be used.
        ManifestError: a manifest cannot be read, or two give one id to different audio.
        StoreError: the transcripts that are there were altered.
    """
    begun = monotonic()
    utterances = read_clips(manifests)
    spec = resolve_transcriber(transcriber_spec(recipe))
    sync_mirror(cache)
    path = transcripts_path(cache, spec)
    with hold_lock(cache / WRITING / path.name):
        work = _find_work(utterances, path)
        heard = _hear(work, spec, path, batch_size, device or default_device())
        _commit(work, spec, path)
    record_failures(path.with_suffix(""), {u.id for u in utterances}, work.failed.values())
    return _report(path, utterances, work, heard, monotonic() - begun)


def read_clips(manifests: Sequence[Path]) -> list[Utterance]:
    """The utterances of several manifest files or folders, each once.

    Raises:
        ManifestError: a manifest cannot be read, or two give one id to different audio.
    """
    clips: dict[str, Utterance] = {}
    for manifest in manifests:
        for utterance in read_manifests(manifest):
            other = clips.setdefault(utterance.id, utterance)
            if (other.audio, other.segment) != (utterance.audio, utterance.segment):
                raise ManifestError(
                    f"{manifest}: id {utterance.id!r} is of {utterance.audio}, in a manifest "
                    f"before it of {other.audio}; transcribe them into different caches"
                )
    return list(clips.values())


def _find_work(utterances: Sequence[Utterance], path: Path) -> _Work:
    """What the file and the journal of an interrupted run hold, and which clips they lack."""
    table = ResultTable(path, finished=map(asdict, _committed(path).values()))
    known = {name: _transcript(table, name) for name in table}
    work = _Work(table, known)
    digests = read_digests([u for u in utterances if u.id in known])
    for utterance in utterances:
        digest = digests.get(utterance.id)
        if isinstance(digest, AudioError):
            work.fail(utterance, digest)
        elif digest is None:
            work.waiting.append(utterance)
        elif _hex(digest) != known[utterance.id].audio_sha256:
            work.waiting.append(utterance)
            work.changed.add(utterance.id)
    return work


def _hear(
    work: _Work, spec: TranscriberSpec, path: Path, batch_size: int, device: torch.device
) -> set[str]:
    """Transcribe what waits, each batch into the journal before the next begins; which ids."""
    heard: set[str] = set()
    if not work.waiting:
        return heard
    model = WhisperTranscriber(spec, device)
    splitter = OomSplitter(model.transcribe, spec.slug, device, say)
    size = clips_at_a_time(device, batch_size)
    with progress("Transcribing", len(work.waiting), "clips") as tick, work.table:
        for utterances in _batches(work.waiting, size):
            clips = _load(utterances, work)
            texts = splitter.run(list(clips.values()))
            for (utterance, clip), said in zip(clips.items(), texts, strict=True):
                if isinstance(said, AudioError):
                    work.lose(utterance, said)
                    continue
                name = utterance.id
                work.table.add(name, _hex(clip.digest), text=said.text, cut=said.cut)
                work.known[name] = _transcript(work.table, name)
                work.hours += clip.seconds / 3600
                heard.add(name)
            tick(len(utterances), f"{work.hours:.2f} h of audio")
    return heard


def _batches(utterances: Sequence[Utterance], size: int) -> Iterator[list[Utterance]]:
    """Utterances of like duration together: their texts are of like length."""
    durations = [round(1000 * (u.duration or 0.0)) for u in utterances]
    for indices in ordered_batches(durations, size):
        yield [utterances[i] for i in indices]


def _load(utterances: Sequence[Utterance], work: _Work) -> dict[Utterance, Clip]:
    """The clips that can be heard. Of others no transcript is kept, unless of this audio."""
    clips = {}
    for utterance in utterances:
        try:
            clips[utterance] = load_clip(utterance)
        except AudioError as error:
            work.lose(utterance, error)
    return clips


def _commit(work: _Work, spec: TranscriberSpec, path: Path) -> None:
    """Bring the file up to date in one step. The journal stays until a mirror has uploaded it."""

    def write(path: Path, rows: list[Row]) -> None:
        write_lines(path, rows)
        upload_file(path)

    if work.known != _committed(path) or work.table.journal.exists():
        rows = file_lines(spec, WhisperTranscriber.licence, work.known.values())
        work.table.finish(rows, write)


def _transcript(table: ResultTable, name: str) -> Transcript:
    row = {"audio_sha256" if k == FINGERPRINT else k: v for k, v in table[name].items()}
    return parse_transcript(row, str(table.journal))


def _committed(path: Path) -> dict[str, Transcript]:
    return read_transcripts_file(path) if path.exists() else {}


def _report(
    path: Path, utterances: Sequence[Utterance], work: _Work, heard: set[str], seconds: float
) -> TranscribeReport:
    done = [(u, work.known[u.id]) for u in utterances if u.id in work.known]
    compared = [(u, transcript.text) for u, transcript in done if normalize_words(u.text)]
    emotions = sorted({u.emotion for u, _ in compared if u.emotion})
    return TranscribeReport(
        path=path,
        failures=failures_path(path.with_suffix("")),
        transcribed=len(heard),
        present=len(utterances) - len(heard) - len(work.failed),
        changed=len(work.changed),
        failed=len(work.failed),
        empty=sum(not transcript.text for _, transcript in done),
        cut=sum(transcript.cut for _, transcript in done),
        hours=work.hours,
        seconds=seconds,
        errors=_errors(compared) if compared else None,
        emotion_errors={e: _errors([c for c in compared if c[0].emotion == e]) for e in emotions},
    )


def _errors(compared: Sequence[tuple[Utterance, str]]) -> WordErrors:
    """Errors of transcripts against the texts of their utterances."""
    return word_errors([u.text for u, _ in compared], [text for _, text in compared])


def _hex(digest: np.ndarray) -> str:
    return digest.tobytes().hex()
