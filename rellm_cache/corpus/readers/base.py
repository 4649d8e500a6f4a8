"""What every corpus reader gives. In: a corpus's own folder. Out: a `Corpus`, not yet decoded.

A reader knows how many clips the whole corpus has; what it finds is held against that before
hours of audio are decoded. Clips whose audio is missing are not counted as found.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rellm_cache.corpus.manifest import Utterance
from rellm_cache.errors import ManifestError


@dataclass(frozen=True)
class Total:
    """How many clips of one kind were found, with their audio, and how many there should be."""

    name: str
    found: int
    expected: int


@dataclass
class Problems:
    """Lines of a corpus's own files that could not be used as they are: kind → `file:line: why`."""

    lines: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, line: str) -> None:
        """Note one line."""
        self.lines.setdefault(kind, []).append(line)


@dataclass(frozen=True)
class Corpus:
    """A corpus as it was found on disk.

    Attributes:
        name: of the corpus, which prefixes its ids.
        utterances: each in its split, in a fixed order; `duration` is not known yet.
        splits: name of the way it was split, as `paper`.
        seed: of whatever was drawn at random; None where nothing was.
        totals: what the whole corpus should hold, and what is here.
        problems: lines that could not be used as they are.
        notes: what else a user should know, as sentences.
        root: the corpus's own folder, if it has one.
    """

    name: str
    utterances: Sequence[Utterance]
    splits: str = ""
    seed: int | None = None
    totals: Sequence[Total] = ()
    problems: Problems = field(default_factory=Problems)
    notes: Sequence[str] = ()
    root: Path | None = None


def count_totals(
    utterances: Iterable[Utterance],
    kind: Callable[[Utterance], str],
    expected: Mapping[str, int],
    prefix: str = "",
) -> list[Total]:
    """Found and expected clips of each kind; clips of kinds that nobody expects are not counted."""
    found = Counter(kind(u) for u in utterances)
    return [Total(f"{prefix}{name}", found[name], count) for name, count in expected.items()]


def with_audio(utterances: Iterable[Utterance]) -> list[Utterance]:
    """Those whose sound file is there."""
    return [u for u in utterances if Path(u.audio).is_file()]


def without_audio(utterances: Iterable[Utterance]) -> list[Utterance]:
    """Those whose sound file is missing; members of zip archives are not looked for."""
    return [u for u in utterances if ".zip:" not in u.audio and not Path(u.audio).is_file()]


def wrong_totals(corpus: Corpus) -> list[str]:
    """What differs from what it should be; names of one kind that differ alike are one entry.

    As "speaker 02, 03: found 0, expected 36 each".
    """
    alike: dict[tuple[str, int, int], list[str]] = {}
    for total in corpus.totals:
        if total.found != total.expected:
            kind, _, name = total.name.rpartition(" ")
            alike.setdefault((kind, total.found, total.expected), []).append(name)
    return [
        f"{kind} {', '.join(names)}".lstrip()
        + f": found {found}, expected {expected}"
        + (" each" if len(names) > 1 else "")
        for (kind, found, expected), names in alike.items()
    ]


def require_totals(corpus: Corpus) -> None:
    """Raise `ManifestError`, with all that was found and expected, unless the corpus is whole."""
    wrong = wrong_totals(corpus)
    if not wrong:
        return
    counts = "; ".join(wrong)
    absent = ""
    if missing := without_audio(corpus.utterances):
        absent = f". The audio of {len(missing)} clips is missing, first {missing[0].audio}"
    raise ManifestError(
        f"{corpus.root or corpus.name}: not the whole of {corpus.name}. {counts}{absent}. "
        "Complete the copy, or prepare what is here with --allow-partial"
    )
