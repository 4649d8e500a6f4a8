"""Manifest preparation: decodes every clip of a corpus once and writes the usable ones.

<out>/train.jsonl  validation.jsonl  test.jsonl     the kept utterances with their durations
<out>/excluded.jsonl                                clips left out, with the reason
<out>/report.json                                   splits, totals and statistics
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rellm_cache.corpus.audio import load_clip
from rellm_cache.corpus.audio_location import audio_below, parse_location
from rellm_cache.corpus.clip_limits import (
    DEFAULT_LIMITS,
    REPORT,
    SAMPLE_RATE,
    ClipLimits,
    TooLongError,
    UnsuitableAudioError,
)
from rellm_cache.corpus.emotions import normalize_emotion
from rellm_cache.corpus.field_validation import check_text
from rellm_cache.corpus.labels import LABELS, unknown_names
from rellm_cache.corpus.long_audio import Cuts, cut_recording
from rellm_cache.corpus.manifest import SPLITS, Utterance, write_manifest
from rellm_cache.corpus.readers.base import Corpus, require_totals, without_audio
from rellm_cache.corpus.statistics import ANNOTATIONS, Survey, read_report, survey
from rellm_cache.corpus.text_files import Problems
from rellm_cache.errors import AudioError, ManifestError
from rellm_cache.utils.atomic_files import write_json, write_lines
from rellm_cache.utils.console import counted, progress
from rellm_cache.utils.locks import hold_folder
from rellm_cache.utils.overwriting import overwriting, refuse_input

OTHER_LENGTH = 0.1  # seconds by which a clip may differ from the length in a corpus's metadata


@dataclass(frozen=True)
class _Sound:
    """What `prepare` keeps of a decoded clip."""

    seconds: float
    sha256: str  # of the samples
    source_sha256: str | None  # of the bytes in a container; None of a file
    notes: Sequence[str]  # what was done to the audio, and what was wrong


_Decoded = _Sound | AudioError


@dataclass(frozen=True)
class PrepareReport:
    """Result of preparing a corpus."""

    out: Path  # the manifest folder
    corpus: Corpus  # the corpus from its reader
    survey: Survey  # statistics of the kept clips
    excluded: list[dict[str, str]]  # clips left out, each with the reason
    missing: int  # excluded clips without a sound file
    unreadable: int  # excluded clips with a sound file that cannot be read
    forms: list[str]  # conversions of audio, and what was wrong with kept files, as sentences
    limits: ClipLimits  # which clips are usable

    @property
    def kept(self) -> dict[str, int]:
        """Number of clips in each split."""
        return {split: sum(counts.values()) for split, counts in self.survey.emotions.items()}

    @property
    def hours(self) -> float:
        """Hours of kept audio."""
        return self.survey.hours

    def to_json(self) -> dict[str, Any]:
        """Contents of `report.json`."""
        problems = self.corpus.problems.lines
        return {
            "corpus": self.corpus.name,
            "splits": self.corpus.splits,
            "seed": self.corpus.seed,
            "totals": [dataclasses.asdict(total) for total in self.corpus.totals],
            "notes": [*self.notes, *self.forms],
            "problems": {kind: {"count": len(p), "lines": p} for kind, p in problems.items()},
            "limits": dataclasses.asdict(self.limits),
            "clips": self.kept,
            "excluded": len(self.excluded),
            "missing": self.missing,
            "unreadable": self.unreadable,
            **({LABELS: names} if (names := self._own_names()) else {}),
            **self.survey.to_json(),
        }

    @property
    def notes(self) -> list[str]:
        """Notes of the reader, and the number of clips whose raters tie."""
        soft = [u for u in self.corpus.utterances if u.soft_emotion]
        if not soft:
            return [*self.corpus.notes]
        tied = sum(u.emotion is None for u in soft)
        return [
            *self.corpus.notes,
            f"{len(soft)} of {counted(len(self.corpus.utterances), 'clip')} have shares of raters; "
            f"{tied} of them have no majority (a tie), and accuracy and UA leave these out",
        ]

    def _own_names(self) -> list[str]:
        """All names of a manifest that has other emotions than the known ones."""
        names = {name for u in self.corpus.utterances for name in _names(u)}
        return sorted(names) if unknown_names(names) else []


def prepare(
    corpus: Corpus,
    out: Path,
    limits: ClipLimits = DEFAULT_LIMITS,
    allow_partial: bool = False,
    overwrite: bool = False,
    split_long: bool = False,
) -> PrepareReport:
    """Decode every clip once, keep the usable ones, and write the manifest.

    Args:
        limits: which clips are usable; every later command reads them from the report.
        allow_partial: accept a corpus with fewer or more clips than expected.
        overwrite: replace a manifest of another corpus, an annotated one, or the corpus's table.
        split_long: cut recordings that are too long at silences, instead of leaving them out.

    Raises:
        RellmError: `out` holds a manifest that `prepare` did not make of this corpus, or another
            process writes it.
        ManifestError: an id occurs twice, an id or a path is not valid Unicode, an emotion is
            unknown, the corpus is not complete, or no clip is usable.
    """
    utterances = _checked(corpus, out, allow_partial, overwrite)
    decoded = _decode(utterances, limits)
    notes: list[str] = []
    if split_long:
        utterances, decoded, notes = _split_long(utterances, decoded, limits)
        _refuse_duplicates(utterances)
    return _write_kept(corpus, utterances, decoded, out, limits, notes)


def prepare_folds(
    corpora: Mapping[str, Corpus],
    out: Path,
    limits: ClipLimits = DEFAULT_LIMITS,
    overwrite: bool = False,
) -> dict[str, PrepareReport]:
    """Write the manifest of each fold of a corpus to `<out>/<name>`; a clip is decoded once.

    Args:
        corpora: name of a fold → its clips and splits.

    Raises: what `prepare` raises; incomplete folds are the reader's matter.
    """
    folds = {
        name: _checked(corpus, out / name, True, overwrite) for name, corpus in corpora.items()
    }
    every = {(u.audio, u.segment): u for fold in folds.values() for u in fold}
    decoded = dict(zip(every, _decode([*every.values()], limits), strict=True))
    return {
        name: _write_kept(
            corpus,
            folds[name],
            [decoded[u.audio, u.segment] for u in folds[name]],
            out / name,
            limits,
        )
        for name, corpus in corpora.items()
    }


def _checked(corpus: Corpus, out: Path, allow_partial: bool, overwrite: bool) -> list[Utterance]:
    """The utterances of a corpus with absolute paths, after the checks that need no audio."""
    if not overwrite:
        _require_own_manifest(corpus, out)
    # In the manifest, a relative path would mean one beside the manifest.
    here = Path.cwd()
    utterances = [
        dataclasses.replace(u, audio=audio_below(here, u.audio)) for u in corpus.utterances
    ]
    _refuse_duplicates(utterances)
    for utterance in utterances:
        check_text(vars(utterance), f"{corpus.root or corpus.name}")
        for name in () if corpus.own_labels else _names(utterance):
            normalize_emotion(name, f"{corpus.root or corpus.name}: {utterance.id}")
    if not allow_partial:
        require_totals(corpus)
    return utterances


def _names(utterance: Utterance) -> list[str]:
    """All names of emotions of an utterance."""
    return [*(utterance.soft_emotion or ([utterance.emotion] if utterance.emotion else []))]


def _decode(utterances: Sequence[Utterance], limits: ClipLimits) -> list[_Decoded]:
    load = partial(_try_load, limits=limits)
    with ThreadPoolExecutor() as pool, progress("Reading audio", len(utterances), "clips") as tick:
        found = []
        for result in pool.map(load, utterances):
            tick()
            found.append(result)
    return found


def _split_long(
    utterances: Sequence[Utterance], decoded: Sequence[_Decoded], limits: ClipLimits
) -> tuple[list[Utterance], list[_Decoded], list[str]]:
    """Utterances with the segments of those that are too long in their place, decoded, and notes.

    A recording that cannot be read to its end stays, with that error.
    """
    long = [u for u, d in zip(utterances, decoded, strict=True) if isinstance(d, TooLongError)]
    found: dict[str, Cuts | AudioError] = {}
    cut = partial(_try_cut, limits=limits)
    with ThreadPoolExecutor() as pool, progress("Finding silences", len(long), "files") as tick:
        for utterance, cuts in zip(long, pool.map(cut, long), strict=True):
            tick()
            found[utterance.id] = cuts
    done = [cuts for cuts in found.values() if isinstance(cuts, Cuts)]
    segments = iter(_decode([clip for cuts in done for clip in cuts.clips], limits))
    every: list[Utterance] = []
    results: list[_Decoded] = []
    for utterance, own in zip(utterances, decoded, strict=True):
        result = found.get(utterance.id, own)
        if isinstance(result, Cuts):
            every += result.clips
            results += [next(segments) for _ in result.clips]
        else:
            every.append(utterance)
            results.append(result)
    notes = []
    if done:
        in_speech = sum(cuts.in_speech for cuts in done)
        notes.append(
            f"{counted(len(done), 'recording')} longer than {limits.max_seconds:g} s cut into "
            f"{counted(sum(len(cuts.clips) for cuts in done), 'clip')}, "
            f"{counted(in_speech, 'cut')} of them where no pause was found; clips have the labels "
            "of their recording, and no text"
        )
    return every, results, notes


def _try_cut(utterance: Utterance, limits: ClipLimits) -> Cuts | AudioError:
    try:
        return cut_recording(utterance, limits)
    except AudioError as error:
        return error


def _write_kept(
    corpus: Corpus,
    utterances: Sequence[Utterance],
    decoded: Sequence[_Decoded],
    out: Path,
    limits: ClipLimits,
    cut_notes: Sequence[str] = (),
) -> PrepareReport:
    """Write the usable utterances and the report, which has `cut_notes`."""
    kept: list[Utterance] = []
    excluded: list[dict[str, str]] = []
    forms: Counter[str] = Counter()
    sounds: dict[str, str] = {}
    unreadable = 0
    for utterance, result in zip(utterances, decoded, strict=True):
        if isinstance(result, AudioError):
            unreadable += not isinstance(result, UnsuitableAudioError)
            excluded.append({"id": utterance.id, "audio": utterance.audio, "reason": str(result)})
            continue
        seconds, sounds[utterance.id] = result.seconds, result.sha256
        forms.update(result.notes)
        if utterance.duration is not None and abs(utterance.duration - seconds) > OTHER_LENGTH:
            corpus.problems.add(
                "clips with another length than the metadata says",
                f"{utterance.id}: {seconds:.2f} s, expected {utterance.duration:.2f} s",
            )
        kept.append(
            dataclasses.replace(
                utterance, duration=round(seconds, 4), source_sha256=result.source_sha256
            )
        )
    if not kept:
        raise ManifestError(
            f"{corpus.root or corpus.name}: no usable clip among "
            f"{counted(len(utterances), 'clip')}; the first was left out because: "
            f"{excluded[0]['reason'] if excluded else 'the corpus is empty'}"
        )
    _add_copies(kept, sounds, corpus.problems)
    missing = len(without_audio(utterances))
    report = PrepareReport(
        out=out,
        corpus=corpus,
        survey=survey(kept, sounds),
        excluded=excluded,
        missing=missing,
        unreadable=unreadable - missing,
        forms=[
            *(f"{counted(count, 'clip')}: {form}" for form, count in sorted(forms.items())),
            *cut_notes,
        ],
        limits=limits,
    )
    with hold_folder(out):
        _write(report, kept)
    return report


def _require_own_manifest(corpus: Corpus, out: Path) -> None:
    """Raise `RellmError` unless a folder has no manifest, or one of `prepare` of this corpus."""
    files = [file for split in SPLITS if (file := out / f"{split}.jsonl").exists()]
    for file in files:
        refuse_input(file, [corpus.root] if corpus.root else [])
    report = read_report(out)
    if (out / ANNOTATIONS).exists():
        raise overwriting(out / ANNOTATIONS, "of `rellm prepare`: its dimensions would be lost")
    if report is not None and report.get("corpus") != corpus.name:
        found, made = str(report.get("corpus")), f"the manifest of corpus {corpus.name!r}"
        raise overwriting(out, f"{made}, but of {found!r}")
    if report is None and files:
        raise overwriting(files[0], f"a manifest of `rellm prepare` ({REPORT} is missing)")


def _try_load(utterance: Utterance, limits: ClipLimits) -> _Decoded:
    try:
        clip = load_clip(utterance, limits)
    except AudioError as error:
        return error
    done = []
    if clip.channels > 1:
        done.append(f"{clip.channels} channels averaged to mono")
    if clip.rate != SAMPLE_RATE:
        done.append(f"{clip.rate} Hz resampled to {SAMPLE_RATE} Hz")
    return _Sound(
        clip.seconds,
        hashlib.sha256(clip.waveform.tobytes()).hexdigest(),
        clip.source_sha256 if parse_location(utterance.audio) else None,
        [*([", ".join(done)] if done else []), *clip.notes],
    )


def _add_copies(kept: Sequence[Utterance], sounds: dict[str, str], problems: Problems) -> None:
    """Name clips whose sound is that of an earlier clip, of another split or of the same."""
    first: dict[str, Utterance] = {}
    for utterance in kept:
        other = first.setdefault(sounds[utterance.id], utterance)
        if other is not utterance:
            where = "in the same split" if other.split == utterance.split else "in another split"
            problems.add(
                f"clips with the sound of a clip {where}",
                f"{utterance.split} {utterance.id} = {other.split} {other.id}",
            )


def _refuse_duplicates(utterances: Sequence[Utterance]) -> None:
    twice = [i for i, n in Counter(u.id for u in utterances).items() if n > 1]
    if twice:
        raise ManifestError(
            f"{len(twice)} ids occur more than once, the first is {twice[0]!r}; ids must be unique"
        )


def _write(report: PrepareReport, kept: Sequence[Utterance]) -> None:
    for split in SPLITS:
        file = report.out / f"{split}.jsonl"
        if split in report.kept:
            write_manifest(file, [u for u in kept if u.split == split])
        else:
            file.unlink(missing_ok=True)
    write_lines(report.out / "excluded.jsonl", report.excluded)
    write_json(report.out / REPORT, report.to_json(), ensure_ascii=False)
