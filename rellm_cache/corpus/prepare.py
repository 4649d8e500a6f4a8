"""Manifest preparation: decodes every clip of a corpus once and writes the usable ones.

<out>/train.jsonl  validation.jsonl  test.jsonl     the kept utterances with their durations
<out>/excluded.jsonl                                clips left out, with the reason
<out>/report.json                                   splits, totals and statistics
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rellm_cache.corpus.audio import MAX_SECONDS, MIN_SECONDS, SAMPLE_RATE, load_clip
from rellm_cache.corpus.field_validation import check_text
from rellm_cache.corpus.manifest import SPLITS, Utterance, write_manifest
from rellm_cache.corpus.readers.base import Corpus, require_totals, without_audio
from rellm_cache.corpus.statistics import ANNOTATIONS, REPORT, Survey, read_report, survey
from rellm_cache.corpus.text_files import Problems
from rellm_cache.errors import AudioError, ManifestError
from rellm_cache.utils.atomic_files import write_json, write_lines
from rellm_cache.utils.console import counted, progress
from rellm_cache.utils.locks import hold_folder
from rellm_cache.utils.overwriting import overwriting, refuse_input


@dataclass(frozen=True)
class PrepareReport:
    """Result of preparing a corpus."""

    out: Path  # the manifest folder
    corpus: Corpus  # the corpus from its reader
    survey: Survey  # statistics of the kept clips
    excluded: list[dict[str, str]]  # clips left out, each with the reason
    missing: int  # excluded clips without a sound file
    unreadable: int  # excluded clips with a sound file that cannot be read
    forms: list[str]  # conversions of channels and sampling rates, as sentences

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
            "notes": [*self.corpus.notes, *self.forms],
            "problems": {kind: {"count": len(p), "lines": p} for kind, p in problems.items()},
            "clips": self.kept,
            "excluded": len(self.excluded),
            "missing": self.missing,
            "unreadable": self.unreadable,
            **self.survey.to_json(),
        }


def prepare(
    corpus: Corpus,
    out: Path,
    min_seconds: float = MIN_SECONDS,
    max_seconds: float = MAX_SECONDS,
    allow_partial: bool = False,
    overwrite: bool = False,
) -> PrepareReport:
    """Decode every clip once, keep the usable ones, and write the manifest.

    Args:
        allow_partial: accept a corpus with fewer or more clips than expected.
        overwrite: replace a manifest of another corpus, an annotated one, or the corpus's table.

    Raises:
        RellmError: `out` holds a manifest that `prepare` did not make of this corpus, or another
            process writes it.
        ManifestError: an id occurs twice, an id or a path is not valid Unicode, the corpus is not
            complete, or no clip is usable.
    """
    if not overwrite:
        _require_own_manifest(corpus, out)
    # In the manifest, a relative path would mean one beside the manifest.
    utterances = [
        dataclasses.replace(u, audio=str(Path.cwd() / u.audio)) for u in corpus.utterances
    ]
    _refuse_duplicates(utterances)
    for utterance in utterances:
        check_text(vars(utterance), f"{corpus.root or corpus.name}")
    if not allow_partial:
        require_totals(corpus)
    kept: list[Utterance] = []
    excluded: list[dict[str, str]] = []
    forms: Counter[tuple[int, int]] = Counter()
    sounds: dict[str, str] = {}
    unusable = 0
    with ThreadPoolExecutor() as pool, progress("Reading audio", len(utterances), "clips") as tick:
        for utterance, result in zip(utterances, pool.map(_try_load, utterances), strict=True):
            tick()
            if isinstance(result, AudioError):
                unusable += 1
                excluded.append(_exclusion(utterance, str(result)))
                continue
            seconds, rate, channels, sounds[utterance.id] = result
            if not min_seconds <= seconds <= max_seconds:
                side = "short" if seconds < min_seconds else "long"
                limit = f"< {min_seconds:g}" if side == "short" else f"> {max_seconds:g}"
                excluded.append(_exclusion(utterance, f"too {side}: {seconds:.2f} s {limit} s"))
                continue
            forms[rate, channels] += 1
            kept.append(dataclasses.replace(utterance, duration=round(seconds, 4)))
    if not kept:
        raise ManifestError(
            f"{corpus.root or corpus.name}: no usable clip among "
            f"{counted(len(utterances), 'clip')}; the first was left out because: "
            f"{excluded[0]['reason'] if excluded else 'the corpus is empty'}"
        )
    _add_copies(kept, sounds, corpus.problems)
    missing = len(without_audio(utterances))
    report = PrepareReport(
        out, corpus, survey(kept, sounds), excluded, missing, unusable - missing, _describe(forms)
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


def _try_load(utterance: Utterance) -> tuple[float, int, int, str] | AudioError:
    """(seconds, sampling rate, channels, digest of the samples) of a clip, or the error."""
    try:
        clip = load_clip(utterance, min_seconds=0, max_seconds=float("inf"))
    except AudioError as error:
        return error
    sound = hashlib.sha256(clip.waveform.tobytes()).hexdigest()
    return clip.seconds, clip.rate, clip.channels, sound


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


def _exclusion(utterance: Utterance, reason: str) -> dict[str, str]:
    return {"id": utterance.id, "audio": utterance.audio, "reason": reason}


def _refuse_duplicates(utterances: Sequence[Utterance]) -> None:
    twice = [i for i, n in Counter(u.id for u in utterances).items() if n > 1]
    if twice:
        raise ManifestError(
            f"{len(twice)} ids occur more than once, the first is {twice[0]!r}; ids must be unique"
        )


def _describe(forms: Counter[tuple[int, int]]) -> list[str]:
    notes = []
    for (rate, channels), count in sorted(forms.items()):
        done = []
        if channels > 1:
            done.append(f"{channels} channels averaged to mono")
        if rate != SAMPLE_RATE:
            done.append(f"{rate} Hz resampled to {SAMPLE_RATE} Hz")
        if done:
            notes.append(f"{counted(count, 'clip')}: {', '.join(done)}")
    return notes


def _write(report: PrepareReport, kept: Sequence[Utterance]) -> None:
    for split in SPLITS:
        file = report.out / f"{split}.jsonl"
        if split in report.kept:
            write_manifest(file, [u for u in kept if u.split == split])
        else:
            file.unlink(missing_ok=True)
    write_lines(report.out / "excluded.jsonl", report.excluded)
    write_json(report.out / REPORT, report.to_json(), ensure_ascii=False)
