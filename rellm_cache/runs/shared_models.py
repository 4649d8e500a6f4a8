"""What the runs of one process share. In: LLM configs, encoders. Out: the LLM and the open stores.

Both are only read, so that a run with shared ones gives the same bits as a run with its own.
"""

import gc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from rellm_cache.config.schema import EncoderConfig, LLMConfig
from rellm_cache.data.streams import StreamSet, open_streams
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm
from rellm_cache.store.reader import FeatureStore


class Resources:
    """A frozen LLM and feature stores, loaded when first asked for and kept.

    One LLM is kept at a time, as a small GPU holds no two: another config takes its place.
    """

    def __init__(self) -> None:
        self._llm: FrozenLLM | None = None
        self._stores: dict[Path, FeatureStore] = {}

    def llm(self, config: LLMConfig, device: torch.device) -> FrozenLLM:
        """As `load_llm`: the LLM of a config, loaded unless it is the last one asked for."""
        config = replace(config, lora=None)  # a model adds its own; the LLM stays as it is
        kept = self._llm
        if kept is not None and kept.config == config and kept.device.type == device.type:
            return kept
        kept = self._llm = None  # its memory first
        gc.collect()
        self._llm = loaded = load_llm(config, device)
        return loaded

    def streams(self, encoders: Mapping[str, EncoderConfig], cache: Path) -> StreamSet:
        """The stores of a recipe's encoders; `StoreError` where one is not there."""
        return open_streams(encoders, cache, self._store)

    def _store(self, path: Path) -> FeatureStore:
        if path not in self._stores:
            self._stores[path] = FeatureStore(path)
        return self._stores[path]
