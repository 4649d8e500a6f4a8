"""Sharded weights of a model folder: numbered safetensors files with an index."""

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from rellm_cache.utils.atomic_files import rename

SHARD_BYTES = 1_000_000_000


class ShardedModelWriter:
    """Writes tensors to safetensors files of bounded size, with transformers' index.

    Only the tensors of one file are in memory at a time.

    Attributes:
        bytes: size of all tensors written.
    """

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self._folder = folder
        self._limit = shard_bytes
        self._open: dict[str, Tensor] = {}
        self._open_bytes = 0
        self._written: list[list[str]] = []
        self.bytes = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Add a tensor. Writes the current file first if the tensor does not fit."""
        if self._open and self._open_bytes + tensor.nbytes > self._limit:
            self._write()
        self._open[name] = tensor
        self._open_bytes += tensor.nbytes

    def close(self) -> None:
        """Write the last file, and the index if there are several files."""
        self._write()
        count = len(self._written)
        names = [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
        if count == 1:
            names = ["model.safetensors"]
        for index, name in enumerate(names):
            rename(self._numbered(index), self._folder / name)
        if count > 1:
            places = {t: names[i] for i, tensors in enumerate(self._written) for t in tensors}
            index_file = {"metadata": {"total_size": self.bytes}, "weight_map": places}
            text = json.dumps(index_file, indent=2, sort_keys=True) + "\n"
            (self._folder / "model.safetensors.index.json").write_text(text, "utf-8")

    def _numbered(self, index: int) -> Path:
        return self._folder / f"shard-{index}"

    def _write(self) -> None:
        if not self._open:
            return
        save_file(self._open, self._numbered(len(self._written)), metadata={"format": "pt"})
        self._written.append(list(self._open))
        self.bytes += self._open_bytes
        self._open, self._open_bytes = {}, 0
