"""The one table of emotion names. In: any corpus's label. Out: rellm's name for it."""

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


def find_emotion(text: str, options: tuple[str, ...]) -> str | None:
    """The first of `options` named in free text, in any known spelling, or None."""
    for word in "".join(c if c.isalpha() else " " for c in text.lower()).split():
        if len(word) > 2 and (name := _NAMES.get(word)) in options:
            return name
    return None
