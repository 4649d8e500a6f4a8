"""Registry of corpora by name: the readers of `rellm prepare`."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from rellm_cache.config.plugins import CORPORA
from rellm_cache.corpus.readers.base import Corpus

Reader = TypeVar("Reader", bound=Callable[[Path, Any], Corpus])


def register_corpus(name: str, *, options: type[Any] | None = None) -> Callable[[Reader], Reader]:
    """Decorator that makes a function available as `rellm prepare NAME`.

    The function is `(root, options)` and returns a `Corpus`; it does not open audio.

    Args:
        options: frozen dataclass of the command's options; without it the function gets None.

    Raises:
        ValueError: the name is taken or not allowed.

    Example:
        >>> import rellm_cache as rellm
        >>> @rellm.register_corpus("one-clip")
        ... def read(root, options):
        ...     clip = rellm.Utterance("one/1", str(root / "speech.wav"), split="test")
        ...     return rellm.Corpus("one", [clip])
        >>> rellm.prepare("one-clip", ".", "manifests/one").kept
        {'test': 1}
    """

    def register(reader: Reader) -> Reader:
        CORPORA.register(name, reader, options, reader.__module__)
        return reader

    return register


def read_corpus(name: str, root: Path, options: Mapping[str, Any]) -> Corpus:
    """Read the corpus in `root` by the reader of this name.

    Raises:
        ConfigError: there is no such reader, or it does not know an option or its value.
        ManifestError: the reader cannot use what it finds.
    """
    plugin = CORPORA.find(name, "corpus")
    corpus: Corpus = plugin.loaded(root, plugin.build_options(options, f"corpus {name!r}"))
    read_by = [f"read by {plugin.provider}"] if plugin.provider else []
    return replace(corpus, notes=[*corpus.notes, *read_by])
