"""Reader of a folder of clips with a `manifest.jsonl`: a few clips of each split and emotion."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import rellm_cache as rellm
from rellm_cache.config.constraints import Range
from rellm_cache.corpus.manifest import read_manifest


@dataclass(frozen=True)
class ClipsOptions:
    """Options of `rellm prepare toy-clips`."""

    limit: Annotated[int, Range(1)] = 4
    """Most clips of each split and emotion."""


@rellm.register_corpus("toy-clips", options=ClipsOptions)
def read_clips(root: Path, options: ClipsOptions) -> rellm.Corpus:
    """Read a few clips of ROOT, which has a manifest.jsonl."""
    seen: Counter[tuple[str, str | None]] = Counter()
    kept = []
    for utterance in read_manifest(root / "manifest.jsonl"):
        group = (utterance.split, utterance.emotion)
        seen[group] += 1
        if seen[group] <= options.limit:
            kept.append(utterance)
    return rellm.Corpus("toy", kept, root=root)
