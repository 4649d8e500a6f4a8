"""Label names: how the names in a corpus's own files become emotions.

Without a rule only the names that `corpus.emotions` knows are accepted. The rule `keep` takes every
name as it is, and a map (a JSON object, as EmoBox's `label_map.json`) replaces them. Both write
names in lower case. `prepare` records the names of its manifest in the report, so that the manifest
can be read again; any other unknown name in a manifest is an error.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from rellm_cache.corpus.clip_limits import REPORT
from rellm_cache.corpus.emotions import SYNONYMS, normalize_emotion
from rellm_cache.errors import ManifestError
from rellm_cache.utils.json_files import read_object

KEEP = "keep"
LABELS = "labels"  # in the report: all names of a manifest that has others than the known ones
_FIX = "remove it, or prepare again"


@dataclass(frozen=True)
class LabelRule:
    """A rule that turns a label of a corpus into an emotion.

    Attributes:
        keep: take every name.
        names: label → name; None without a map.
        source: the file of the map, for messages.
    """

    keep: bool = False
    names: Mapping[str, str] | None = None
    source: str = ""

    def emotion(self, label: str, where: str = "") -> str:
        """The emotion of a label.

        Raises:
            ManifestError: the label is unknown, or the map does not have it.
        """
        if self.names is not None:
            if (found := self.names.get(label.strip())) is None:
                raise ManifestError(
                    f"{where}: found emotion {label!r}, which {self.source} does not map; it has "
                    f"{', '.join(self.names)}; add it there"
                )
            return plain_emotion(found, f"{self.source}: {label}")
        return plain_emotion(label, where) if self.keep else normalize_emotion(label, where)


KNOWN_NAMES = LabelRule()  # of `corpus.emotions`; others are errors


def plain_emotion(name: str, where: str) -> str:
    """A name in lower case with single spaces; `ManifestError` if it is empty."""
    if plain := " ".join(name.lower().split()):
        return plain
    raise ManifestError(f"{where}: found an empty emotion, expected a name")


def label_rule(labels: str) -> LabelRule:
    """The rule of `--labels`: "" for known names, `keep`, or the path of a map.

    Raises:
        ManifestError: there is no such map, or it is not a JSON object of texts.
    """
    if labels in ("", KEEP):
        return LabelRule(keep=labels == KEEP)
    path = Path(labels)
    what = 'expected `keep` or a JSON object, as {"hap": "happy"}'
    if not path.is_file():
        raise ManifestError(f"{labels}: no such file; {what}")
    names = read_object(path, ManifestError, what)
    for label, name in names.items():
        if not isinstance(name, str):
            raise ManifestError(f"{path}: {label!r} is {name!r}; {what}")
    return LabelRule(names={label.strip(): name for label, name in names.items()}, source=labels)


def unknown_names(names: Collection[str]) -> list[str]:
    """The names that are not those of `corpus.emotions`, sorted."""
    return sorted(set(names) - SYNONYMS.keys())


def read_labels(folder: Path) -> frozenset[str]:
    """The names that the report of a manifest folder records; empty if all are known ones.

    Raises:
        ManifestError: the report is not one that `prepare` writes.
    """
    file = folder / REPORT
    if not file.is_file():
        return frozenset()
    names = read_object(file, ManifestError, _FIX).get(LABELS, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ManifestError(f"{file}: found labels {names!r:.80}, expected a list of names; {_FIX}")
    return frozenset(names)


def emotion_of(label: str, names: Collection[str], where: str) -> str:
    """The emotion of a manifest's label: one of `names` as it is, or a known name."""
    return label if label in names else normalize_emotion(label, where)
