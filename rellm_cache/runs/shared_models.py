"""Shared models for several runs in one process: the frozen LLM and the open feature stores.

Both are read-only, so a run gives the same bits with shared models as with its own.
"""

import gc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from rellm_cache.config.schema import EncoderConfig, LLMConfig, Recipe
from rellm_cache.corpus.clip_limits import read_limits
from rellm_cache.corpus.manifest import read_manifests
from rellm_cache.corpus.speed_copies import speed_copies
from rellm_cache.data.speaker_normalization import normalize_speakers, normalized_streams
from rellm_cache.data.streams import StreamSet, open_streams
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm
from rellm_cache.store.reader import FeatureStore


class SharedModels:
    """A frozen LLM and feature stores, loaded at first use and kept.

    Only one LLM is kept, because a small GPU cannot hold two.
    """

    def __init__(self) -> None:
        self._llm: FrozenLLM | None = None
        self._stores: dict[Path, FeatureStore] = {}
        self._normalized: dict[tuple[Path, Path, Path], StreamSet] = {}

    def llm(self, config: LLMConfig, device: torch.device) -> FrozenLLM:
        """Return the LLM of a config; load it unless it is already kept."""
        config = replace(config, lora=None)  # each model adds its own LoRA
        kept = self._llm
        if kept is not None and kept.config == config and kept.device.type == device.type:
            return kept
        kept = self._llm = None  # free its memory first
        gc.collect()
        self._llm = loaded = load_llm(config, device)
        return loaded

    def streams(self, encoders: Mapping[str, EncoderConfig], cache: Path) -> StreamSet:
        """Open the stores of encoders; `StoreError` if one is missing."""
        return open_streams(encoders, cache, self._store)

    def run_streams(
        self, run: Path, recipe: Recipe, manifest: Path, cache: Path, ids: list[str]
    ) -> StreamSet:
        """Open the stores of a run; frames are normalized by speaker where its recipe says so.

        Raises:
            StoreError: clips are missing; the message names the command to run.
            ManifestError: the recipe normalizes by speaker, and a clip has no speaker.
        """
        streams = self.streams(recipe.encoders, cache)
        command = f"rellm extract {manifest} --recipe {run}/recipe.toml --cache {cache}"
        streams.require(ids, command)
        if not normalized_streams(recipe.encoders):
            return streams
        key = (run, manifest, cache)
        if key not in self._normalized:
            clips = read_manifests(manifest)
            copies = speed_copies(clips, recipe.heads.speed_copies, read_limits(manifest))
            clips += [copy for _, copy in copies]
            streams.require([u.id for u in clips], command)
            self._normalized[key] = normalize_speakers(streams, recipe.encoders, clips)
        return self._normalized[key]

    def _store(self, path: Path) -> FeatureStore:
        if path not in self._stores:
            self._stores[path] = FeatureStore(path)
        return self._stores[path]
