"""prepare. In: utterances from a corpus reader. Out: a manifest folder, every clip looked at.

<out>/train.jsonl  validation.jsonl  test.jsonl     the kept utterances, durations measured
<out>/excluded.jsonl                                what was left out, and why
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rellm_cache.corpus.audio import MAX_SECONDS, MIN_SECONDS, SAMPLE_RATE, load_clip
from rellm_cache.corpus.manifest import SPLITS, Utterance, write_lines, write_manifest
from rellm_cache.errors import AudioError, ManifestError
from rellm_cache.progress import progress


@dataclass(frozen=True)
class PrepareReport:
    """What became of a corpus.

    Attributes:
        out: the manifest folder.
        kept: split → utterances.
        hours: of kept audio.
        emotions: split → emotion → utterances.
        excluded: clips left out, each with the reason.
        unreadable: how many of those could not be read at all.
        notes: what was changed on the way in, as channel counts and rates.
    """

    out: Path
    kept: dict[str, int]
    hours: float
    emotions: dict[str, dict[str, int]]
    excluded: list[dict[str, str]]
    unreadable: int
    notes: list[str]


def prepare(
    utterances: Sequence[Utterance],
    out: Path,
    min_seconds: float = MIN_SECONDS,
    max_seconds: float = MAX_SECONDS,
) -> PrepareReport:
    """Decode every clip once, keep the usable ones, and write the manifest.

    Raises:
        ManifestError: an id occurs twice, or nothing is left.
    """
    _refuse_duplicates(utterances)
    kept: list[Utterance] = []
    excluded: list[dict[str, str]] = []
    forms: Counter[tuple[int, int]] = Counter()
    unreadable = 0
    with ThreadPoolExecutor() as pool, progress("Reading audio", len(utterances), "clips") as tick:
        for utterance, result in zip(utterances, pool.map(_try_load, utterances), strict=True):
            tick()
            if isinstance(result, AudioError):
                unreadable += 1
                excluded.append(_exclusion(utterance, str(result)))
                continue
            seconds, rate, channels = result
            if not min_seconds <= seconds <= max_seconds:
                side = "short" if seconds < min_seconds else "long"
                limit = f"< {min_seconds:g}" if side == "short" else f"> {max_seconds:g}"
                excluded.append(_exclusion(utterance, f"too {side}: {seconds:.2f} s {limit} s"))
                continue
            forms[rate, channels] += 1
            kept.append(dataclasses.replace(utterance, duration=round(seconds, 4)))
    if not kept:
        raise ManifestError(
            f"{out}: nothing is left of {len(utterances)} clips; the first was left out because: "
            f"{excluded[0]['reason'] if excluded else 'the corpus is empty'}"
        )
    return _write(out, kept, excluded, unreadable, _notes(forms))


def _try_load(utterance: Utterance) -> tuple[float, int, int] | AudioError:
    """(seconds, rate, channels) of a clip, or why it cannot be read."""
    try:
        clip = load_clip(utterance, min_seconds=0, max_seconds=float("inf"))
    except AudioError as error:
        return error
    return clip.seconds, clip.rate, clip.channels


def _exclusion(utterance: Utterance, reason: str) -> dict[str, str]:
    return {"id": utterance.id, "audio": utterance.audio, "reason": reason}


def _refuse_duplicates(utterances: Sequence[Utterance]) -> None:
    twice = [i for i, n in Counter(u.id for u in utterances).items() if n > 1]
    if twice:
        raise ManifestError(
            f"{len(twice)} ids occur more than once, the first is {twice[0]!r}; ids must be unique"
        )


def _notes(forms: Counter[tuple[int, int]]) -> list[str]:
    notes = []
    for (rate, channels), count in sorted(forms.items()):
        done = []
        if channels > 1:
            done.append(f"{channels} channels averaged to mono")
        if rate != SAMPLE_RATE:
            done.append(f"{rate} Hz resampled to {SAMPLE_RATE} Hz")
        if done:
            notes.append(f"{count} clips: {', '.join(done)}")
    return notes


def _write(
    out: Path,
    kept: list[Utterance],
    excluded: list[dict[str, str]],
    unreadable: int,
    notes: list[str],
) -> PrepareReport:
    by_split = {split: [u for u in kept if u.split == split] for split in SPLITS}
    for split, part in by_split.items():
        file = out / f"{split}.jsonl"
        if part:
            write_manifest(file, part)
        else:
            file.unlink(missing_ok=True)
    write_lines(out / "excluded.jsonl", excluded)
    present = {split: part for split, part in by_split.items() if part}
    return PrepareReport(
        out=out,
        kept={split: len(part) for split, part in present.items()},
        hours=sum(u.duration or 0 for u in kept) / 3600,
        emotions={
            split: dict(Counter(u.emotion or "none" for u in part))
            for split, part in present.items()
        },
        excluded=excluded,
        unreadable=unreadable,
        notes=notes,
    )
