"""The one table of emotion names. In: any corpus's label. Out: rellm's name for it."""

import re
from collections.abc import Sequence

from rellm_cache.errors import ManifestError

# Each name with the words that people use for it.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "neutral": (),
    "happy": ("happiness", "joy", "joyful"),
    "angry": ("anger",),
    "sad": ("sadness",),
    "surprise": ("surprised",),
    "fear": ("fearful", "afraid"),
    "disgust": ("disgusted",),
    "contempt": (),
    "calm": (),
    "excited": ("excitement",),
    "frustrated": ("frustration",),
    "other": (),
}
# What tables of corpora write instead. In free text these say nothing of emotion, as "con".
CODES: dict[str, tuple[str, ...]] = {
    "neutral": ("neu", "n"),
    "happy": ("hap", "h"),
    "angry": ("ang", "a"),
    "sad": ("s",),
    "surprise": ("sur", "u"),
    "fear": ("fea", "f"),
    "disgust": ("dis", "d"),
    "contempt": ("con", "c"),
    "excited": ("exc",),
    "frustrated": ("fru",),
    "other": ("oth", "o", "xxx", "x"),
}
OTHER = "other"  # a label, and an ordinary word

_WORDS = {word: name for name, words in SYNONYMS.items() for word in (name, *words)}
_NAMES = _WORDS | {code: name for name, codes in CODES.items() for code in codes}
_SENTENCE_END = re.compile(r"[.!?:;\n]+")
_SAYING = frozenset({"is", "was", "be", "as", "sounds", "seems", "feels"})


def normalise_emotion(label: str) -> str:
    """Rellm's name for a corpus's label, whatever its case; `ManifestError` lists the known."""
    name = _NAMES.get(label.strip().lower())
    if name is None:
        raise ManifestError(
            f"unknown emotion {label!r}; known are {', '.join(SYNONYMS)} "
            f"and their short forms ({', '.join(sorted(set(_NAMES) - set(SYNONYMS)))})"
        )
    return name


def emotions_in(text: str, options: Sequence[str]) -> list[str]:
    """Those of `options` named in free text, by a word people use, in the order of the text.

    "other" is named only by a sentence that says nothing else, or ends with it after a word such
    as "is" or "sounds": elsewhere it means what it usually means.
    """
    named: list[str] = []
    for sentence in _SENTENCE_END.split(text.lower()):
        words = "".join(c if c.isalpha() else " " for c in sentence).split()
        named += [_WORDS[word] for word in words if word in _WORDS and word != OTHER]
        if words[-1:] == [OTHER] and _SAYING.issuperset(words[-2:-1]):
            named.append(OTHER)
    return [name for name in dict.fromkeys(named) if name in options]


def find_emotion(text: str, options: Sequence[str]) -> str | None:
    """The first of `options` named in free text, as `emotions_in` finds them, or None."""
    return next(iter(emotions_in(text, options)), None)
