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
# Label codes that only corpora use. In free text, "con", for example, is not an emotion.
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
OTHER = "other"  # a label, but also an ordinary word

_WORDS = {word: name for name, words in SYNONYMS.items() for word in (name, *words)}
_NAMES = _WORDS | {code: name for name, codes in CODES.items() for code in codes}
_SENTENCE_END = re.compile(r"[.!?:;\n]+")
_COPULAS = frozenset({"is", "was", "be", "as", "sounds", "seems", "feels"})


def normalize_emotion(label: str, where: str = "") -> str:
    """Map a corpus's label, in upper or lower case, to an emotion; `ManifestError` if unknown."""
    name = _NAMES.get(label.strip().lower())
    if name is None:
        prefix = f"{where}: " if where else ""
        raise ManifestError(
            f"{prefix}unknown emotion {label!r}; known are {', '.join(SYNONYMS)} "
            f"and their short forms ({', '.join(sorted(set(_NAMES) - set(SYNONYMS)))})"
        )
    return name


def emotions_in(text: str, options: Sequence[str]) -> list[str]:
    """Find the emotions of `options` in free text, by name or synonym, in the order of the text.

    "other" counts only if it is a whole sentence, or if it ends a sentence after a word such as
    "is" or "sounds". Elsewhere it is an ordinary word.
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
