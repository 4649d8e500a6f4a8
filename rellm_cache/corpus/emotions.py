"""Emotion names: maps the labels of corpora, and words in free text, to one set of names."""

import re
from collections.abc import Sequence
from functools import lru_cache

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
            f"and their short forms ({', '.join(sorted(set(_NAMES) - set(SYNONYMS)))}). Keep other "
            "names with `rellm prepare … --labels keep`, or map them with --labels map.json, as in "
            f'{{"{label.strip()}": "happy"}}'
        )
    return name


def emotions_in(text: str, options: Sequence[str]) -> list[str]:
    """Find the emotions of `options` in free text, by name or synonym, in the order of the text.

    An option may have any name. Where the names of two options begin at the same word, the longer
    one is found: "non-neutral" does not name "neutral". "other" counts only if it is a whole
    sentence, or if it ends a sentence after a word such as "is" or "sounds". Elsewhere it is an
    ordinary word.
    """
    phrases = _phrases(tuple(options))
    longest = max(map(len, phrases), default=0)
    named: list[str] = []
    for sentence in _SENTENCE_END.split(text):
        words, at = _split_words(sentence), 0
        while at < len(words):
            sizes = range(longest, 0, -1)
            size = next((n for n in sizes if words[at : at + n] in phrases), 1)
            found = phrases.get(words[at : at + size])
            at += size
            if found is not None and (found != OTHER or _answers_other(words, at)):
                named.append(found)
    return list(dict.fromkeys(named))


@lru_cache(maxsize=32)
def _phrases(options: tuple[str, ...]) -> dict[tuple[str, ...], str]:
    """Words → the option that they name: by a synonym of a known name, or by the option itself."""
    known = {option: _WORDS.get(option.lower()) for option in options}
    synonyms = {(w,): option for option, name in known.items() for w in _WORDS if _WORDS[w] == name}
    return synonyms | {words: option for option in options if (words := _split_words(option))}


def _split_words(text: str) -> tuple[str, ...]:
    return tuple("".join(c if c.isalpha() else " " for c in text.lower()).split())


def _answers_other(words: tuple[str, ...], end: int) -> bool:
    """Whether "other", the word before `end`, ends its sentence as an answer does."""
    return end == len(words) and _COPULAS.issuperset(words[-2:-1])


def find_emotion(text: str, options: Sequence[str]) -> str | None:
    """The first emotion of `options` that free text names (see `emotions_in`), or None."""
    return next(iter(emotions_in(text, options)), None)
