"""Split drawing: train, validation and test by hash, the same on every machine.

A draw takes the names with the lowest SHA-256 of seed and name. It does not depend on file order or
on a random generator. Adding or removing a clip moves few other clips to another split.
"""

import dataclasses
import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from rellm_cache.corpus.manifest import Utterance

HELD_OUT = 10  # one tenth of train becomes validation
# Words in names of files and folders, as the hub's `datasets` knows them → their split.
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "dev", "val"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
APOSTROPHES = str.maketrans("", "", "'\u2018\u2019\u02bc")


def draw(names: Iterable[str], count: int, seed: int) -> frozenset[str]:
    """Draw `count` of the names, or all of them if there are fewer."""

    def rank(name: str) -> bytes:
        return hashlib.sha256(f"{seed}:{name}".encode()).digest()

    return frozenset(sorted(set(names), key=rank)[:count])


def split_of_path(path: str) -> str:
    """The split that a file's name says, else that of its nearest folder; "" if none does.

    Example:
        >>> from rellm_cache.corpus.splits import split_of_path
        >>> split_of_path("data/dev-00000-of-00002.parquet"), split_of_path("train.clean.100")
        ('validation', 'train')
    """
    for part in reversed(path.lower().split("/")):
        found = {SPLIT_WORDS.get(word, "") for word in re.split(r"[-._ 0-9]+", part)} - {""}
        if found:
            return found.pop() if len(found) == 1 else ""
    return ""


def in_split(utterance: Utterance, split: str) -> Utterance:
    """A copy of an utterance in another split."""
    return dataclasses.replace(utterance, split=split)


def hold_out(
    utterances: Sequence[Utterance],
    seed: int,
    unit: Callable[[Utterance], str] = lambda u: u.id,
    parts: int = HELD_OUT,
) -> list[Utterance]:
    """Move a random tenth of train to validation; returns all utterances.

    Args:
        parts: 5 moves a fifth in place of a tenth.
        unit: key of a clip; clips with equal keys stay together. Default: the clip id.
    """
    units = {unit(u) for u in utterances if u.split == "train"}
    drawn = draw(units, round(len(units) / parts), seed)
    return [
        in_split(u, "validation") if u.split == "train" and unit(u) in drawn else u
        for u in utterances
    ]


def text_key(text: str) -> str:
    """A key that is equal for equal sentences: words in lower case, without punctuation.

    Straight and curly apostrophes count as equal, and so do composed and decomposed accents.
    """
    normalized = unicodedata.normalize("NFKC", text).lower().translate(APOSTROPHES)
    return " ".join(re.findall(r"[^\W_]+", normalized))


def without_text_of(utterances: Sequence[Utterance], split: str) -> tuple[list[Utterance], int]:
    """Drop clips of other splits with a text of `split`; returns kept clips and number dropped."""
    texts = {text_key(u.text) for u in utterances if u.split == split} - {""}
    kept = [u for u in utterances if u.split == split or text_key(u.text) not in texts]
    return kept, len(utterances) - len(kept)
