"""Splits that anyone can draw again. In: utterances, a seed. Out: the same in train or validation.

What is drawn follows from the seed and each name alone (the lowest SHA-256 of both win), never
from the order on disk or a library's generator; a clip more or less moves few others.
"""

import dataclasses
import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from rellm_cache.corpus.manifest import Utterance

HELD_OUT = 10  # validation is a tenth of train
APOSTROPHES = str.maketrans("", "", "'\u2018\u2019\u02bc")


def draw(names: Iterable[str], count: int, seed: int) -> frozenset[str]:
    """So many of the names; all of them if there are fewer."""

    def rank(name: str) -> bytes:
        return hashlib.sha256(f"{seed}:{name}".encode()).digest()

    return frozenset(sorted(set(names), key=rank)[:count])


def in_split(utterance: Utterance, split: str) -> Utterance:
    """The same utterance in another split."""
    return dataclasses.replace(utterance, split=split)


def hold_out(
    utterances: Sequence[Utterance],
    seed: int,
    unit: Callable[[Utterance], str] = lambda u: u.id,
) -> list[Utterance]:
    """All utterances, a random tenth of train's units now in validation.

    Args:
        unit: what is drawn as a whole: a clip by itself, or all clips of a sentence.
    """
    units = {unit(u) for u in utterances if u.split == "train"}
    drawn = draw(units, round(len(units) / HELD_OUT), seed)
    return [
        in_split(u, "validation") if u.split == "train" and unit(u) in drawn else u
        for u in utterances
    ]


def text_key(text: str) -> str:
    """The words of a transcript, without case and punctuation: equal for equal sentences.

    However they are typed: "don't" with either apostrophe, accents apart from their letters or not.
    """
    typed = unicodedata.normalize("NFKC", text).lower().translate(APOSTROPHES)
    return " ".join(re.findall(r"[^\W_]+", typed))


def without_text_of(utterances: Sequence[Utterance], split: str) -> tuple[list[Utterance], int]:
    """Without clips of other splits whose text this split has; and how many those were."""
    texts = {text_key(u.text) for u in utterances if u.split == split} - {""}
    kept = [u for u in utterances if u.split == split or text_key(u.text) not in texts]
    return kept, len(utterances) - len(kept)
