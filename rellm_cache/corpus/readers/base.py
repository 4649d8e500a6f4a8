"""Corpus: what a reader returns, with the known totals of the whole corpus.

Totals are checked before audio is decoded, which can take hours. Clips with missing audio do not
count as found.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rellm_cache.corpus.audio_location import file_of
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.corpus.text_files import Problems
from rellm_cache.errors import ManifestError
from rellm_cache.utils.regular_files import file_exists


@dataclass(frozen=True)
class Total:
    """Number of clips of one kind that were found with their audio, and that are expected."""

    name: str
    found: int
    expected: int


@dataclass(frozen=True)
class Corpus:
    """A corpus as found on disk, before its audio is decoded."""

    name: str  # corpus name, the first part of its ids
    utterances: Sequence[
        Utterance
    ]  # each with its split, in a fixed order; `duration` as the metadata says, or None
    splits: str = ""  # name of the kind of split, as `paper`
    seed: int | None = None  # seed of random draws; None if there were none
    totals: Sequence[Total] = ()  # expected and found clips
    problems: Problems = field(default_factory=Problems)  # lines with a problem
    notes: Sequence[str] = ()  # other information for the user, as sentences
    root: Path | None = None  # the corpus's own folder or table, if it has one
    own_labels: bool = False  # whether emotions may have other names than `corpus.emotions` knows


def count_totals(
    utterances: Iterable[Utterance],
    kind: Callable[[Utterance], str],
    expected: Mapping[str, int],
    prefix: str = "",
) -> list[Total]:
    """Found and expected clips of each expected kind; clips of other kinds are not counted."""
    found = Counter(kind(u) for u in utterances)
    return [Total(f"{prefix}{name}", found[name], count) for name, count in expected.items()]


def with_audio(utterances: Iterable[Utterance]) -> list[Utterance]:
    """The utterances with an existing sound file or container."""
    return [u for u in utterances if file_exists(file_of(u.audio))]


def without_audio(utterances: Iterable[Utterance]) -> list[Utterance]:
    """The utterances with a missing sound file or container."""
    return [u for u in utterances if not file_exists(file_of(u.audio))]


def wrong_totals(corpus: Corpus) -> list[str]:
    """The totals that differ from the expected ones, as text.

    Equal differences of one kind are one entry: "speaker 02, 03: found 0, expected 36 each".
    """
    groups: dict[tuple[str, int, int], list[str]] = {}
    for total in corpus.totals:
        if total.found != total.expected:
            kind, _, name = total.name.rpartition(" ")
            groups.setdefault((kind, total.found, total.expected), []).append(name)
    return [
        f"{kind} {', '.join(names)}".lstrip()
        + f": found {found}, expected {expected}"
        + (" each" if len(names) > 1 else "")
        for (kind, found, expected), names in groups.items()
    ]


def require_totals(corpus: Corpus) -> None:
    """Raise `ManifestError`, with found and expected totals, unless the corpus is complete."""
    wrong = wrong_totals(corpus)
    if not wrong:
        return
    counts = "; ".join(wrong)
    audio = ""
    if missing := without_audio(corpus.utterances):
        audio = f". The audio of {len(missing)} clips is missing, first {missing[0].audio}"
    raise ManifestError(
        f"{corpus.root or corpus.name}: not the whole of {corpus.name}. {counts}{audio}. "
        "Complete the copy, or prepare what is here with --allow-partial"
    )
