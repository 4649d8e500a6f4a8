"""Processes that die in the middle of their work, for tests of kills."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

# `killed_after(2)`: what runs within dies at its third row of a journal; the rows it wrote.
KilledAfter = Callable[[int], AbstractContextManager[list[dict[str, Any]]]]

# A script that extracts `manifest recipe cache` and kills itself before its sixth commit.
KILLED_EXTRACTION = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from rellm_cache.config.recipes import load_recipe
from rellm_cache.extraction.run import extract
from rellm_cache.extraction.options import ExtractionOptions
from rellm_cache.store import writer

sync, calls = writer.sync_tree, []

def die(folder):
    calls.append(folder)
    if len(calls) == 7:  # the store, five parts, and the sixth is written but not renamed
        os.kill(os.getpid(), signal.SIGKILL)
    sync(folder)

writer.sync_tree = die
manifest, recipe, cache = sys.argv[1:]
options = ExtractionOptions(commit_seconds=0)  # every clip is a part
extract(Path(manifest), load_recipe(recipe), Path(cache), batch_size=2, options=options)
"""
