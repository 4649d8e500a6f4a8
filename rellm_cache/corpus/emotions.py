"""The one table of emotion names. In: any corpus's label. Out: rellm's name for it."""

from collections.abc import Sequence

from rellm_cache.errors import ManifestError

SYNONYMS: dict[str, tuple[str, ...]] = {
    "neutral": ("neu", "n"),
    "happy": ("hap", "happiness", "joy", "joyful", "h"),
    "angry": ("ang", "anger", "a"),
    "sad": ("sadness", "s"),
    "surprise": ("sur", "surprised", "u"),
    "fear": ("fea", "fearful", "afraid", "f"),
    "disgust": ("dis", "disgusted", "d"),
    "contempt": ("con", "c"),
    "calm": (),
    "excited": ("exc", "excitement"),
    "frustrated": ("fru", "frustration"),
    "other": ("oth", "o", "xxx", "x"),
}

_NAMES = {alias: name for name, aliases in SYNONYMS.items() for alias in (name, *aliases)}


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
    """Those of `options` named in free text, in any known spelling, in the order of the text."""
    words = "".join(c if c.isalpha() else " " for c in text.lower()).split()
    names = (_NAMES.get(word) for word in words if len(word) > 2)
    return list(dict.fromkeys(name for name in names if name is not None and name in options))


def find_emotion(text: str, options: Sequence[str]) -> str | None:
    """The first of `options` named in free text, in any known spelling, or None."""
    return next(iter(emotions_in(text, options)), None)
