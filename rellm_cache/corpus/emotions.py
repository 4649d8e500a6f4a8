"""Emotion names: maps the labels of corpora, and words in free text, to one set of names."""

import re
from collections.abc import Sequence

from rellm_cache.errors import ManifestError

# Each name with its synonyms.
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
# Codes in the tables of corpora. In free text they do not mean an emotion: "con", for example.
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
_COPULAS = frozenset({"is", "was", "be", "as", "sounds", "seems", "feels"})


def normalize_emotion(label: str, where: str = "") -> str:
    """The emotion name of a corpus's label in any case; `ManifestError` if it is unknown."""
    name = _NAMES.get(label.strip().lower())
    if name is None:
        prefix = f"{where}: " if where else ""
        raise ManifestError(
            f"{prefix}unknown emotion {label!r}; known are {', '.join(SYNONYMS)} "
            f"and their short forms ({', '.join(sorted(set(_NAMES) - set(SYNONYMS)))})"
        )
    return name


def emotions_in(text: str, options: Sequence[str]) -> list[str]:
    """Emotions of `options` that free text contains, as name or synonym, in order of the text.

    "other" counts only as a whole sentence, or at the end of one after a word such as "is" or
    "sounds": elsewhere it is an ordinary word.
    """
    named: list[str] = []
    for sentence in _SENTENCE_END.split(text.lower()):
        words = "".join(c if c.isalpha() else " " for c in sentence).split()
        named += [_WORDS[word] for word in words if word in _WORDS and word != OTHER]
        if words[-1:] == [OTHER] and _COPULAS.issuperset(words[-2:-1]):
            named.append(OTHER)
    return [name for name in dict.fromkeys(named) if name in options]


def find_emotion(text: str, options: Sequence[str]) -> str | None:
    """The first emotion of `options` that free text names (see `emotions_in`), or None."""
    return next(iter(emotions_in(text, options)), None)
