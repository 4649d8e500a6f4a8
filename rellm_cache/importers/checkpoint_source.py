"""Checkpoint reader: configuration and tensors of another project's model folder.

Weights are safetensors or PyTorch files, one file or several with an index. PyTorch files are read
with `weights_only`, so no code in them runs. Files are memory-mapped, one at a time.
"""

import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from rellm_cache.errors import ConfigError
from rellm_cache.utils.json_files import read_object
from rellm_cache.utils.regular_files import file_exists
from rellm_cache.utils.tensor_files import load_safetensors, load_torch

# Either one file or the index of several; the first one found is used.
FILES = ("model.safetensors", "pytorch_model.bin")
UNREADABLE = (
    OSError, SafetensorError, RuntimeError, EOFError, ValueError, AttributeError, LookupError,
    pickle.UnpicklingError,
)  # fmt: skip
SHOWN_NAMES = 3  # maximum number of names in a message


@dataclass(frozen=True)
class CheckpointWeights:
    """Names, shapes and dtypes of all tensors of a checkpoint."""

    folder: Path  # of the checkpoint
    files: list[Path]  # in order
    described: dict[str, Tensor]  # name → tensor without data, on torch's `meta` device

    def bytes(self, names: Iterable[str]) -> int:
        """Size of these tensors."""
        return sum(self.described[name].nbytes for name in names)

    def check(self, expected: dict[str, tuple[int, ...]], ignored: Callable[[str], bool]) -> None:
        """Raise `ConfigError` unless exactly the expected tensors are present, in floating point.

        Args:
            expected: name → shape.
            ignored: whether a tensor of this name may be present though it is not expected.
        """
        missing = sorted(expected.keys() - self.described.keys())
        if missing:
            raise ConfigError(
                f"{self.folder}: the weights lack {_shorten(missing)}; copy all files again"
            )
        others = sorted(n for n in self.described.keys() - expected.keys() if not ignored(n))
        if others:
            raise ConfigError(
                f"{self.folder}: the weights hold {_shorten(others)}, which this model does not "
                "have; expected the published checkpoint, neither quantized nor with adapters"
            )
        for name, shape in expected.items():
            found = self.described[name]
            if found.shape != shape or not found.is_floating_point():
                raise ConfigError(
                    f"{self.folder}: tensor {name}: found {found.dtype} {tuple(found.shape)}, "
                    f"expected floating point {shape}; copy the weights that belong to config.json"
                )

    def tensors(
        self, file: Path, wanted: Callable[[str], bool] = lambda name: True
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield name and value of each wanted tensor of one file."""
        return (pair for pair in open_tensors(file).items() if wanted(pair[0]))

    def one(self, name: str) -> Tensor:
        """Value of a tensor in float32."""
        for file in self.files:
            for _, tensor in self.tensors(file, name.__eq__):
                return tensor.float()
        raise KeyError(name)


def read_config(folder: Path) -> dict[str, Any]:
    """Content of `config.json` in a model folder; `ConfigError` if there is none."""
    return read_object(
        folder / "config.json", ConfigError, "expected the folder of a downloaded checkpoint"
    )


def find_weights(folder: Path) -> CheckpointWeights:
    """List the tensors of a model folder.

    Raises:
        ConfigError: there are no weights, a file is missing or damaged or needs code to run, or two
            files hold the same tensor.
    """
    files = weight_files(folder)
    described: dict[str, Tensor] = {}
    for file in files:
        for name, tensor in open_tensors(file).items():
            if name in described:
                raise ConfigError(f"{file}: another file holds {name} too; copy all files again")
            described[name] = tensor.to("meta")
    return CheckpointWeights(folder, files, described)


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder; `ConfigError` if one or all are missing."""
    for name in FILES:
        if (folder / name).is_file():  # as transformers: it comes before an index
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            weight_map = read_object(index, ConfigError, "copy it again").get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise ConfigError(f"{index}: expected names of files in weight_map; copy it again")
            shards = sorted(set(map(str, weight_map.values())))
            if gone := [shard for shard in shards if not file_exists(folder / shard)]:
                raise ConfigError(
                    f"{folder}: {_shorten(gone)} missing, listed in {index.name}; copy all files"
                )
            if odd := [shard for shard in shards if Path(shard).name != shard]:
                raise ConfigError(f"{index}: {_shorten(odd)}: expected names in this folder")
            return [folder / shard for shard in shards]
    wanted = " nor ".join((*FILES, *(f"{name}.index.json" for name in FILES)))
    raise ConfigError(f"{folder}: found neither {wanted}; copy the weights into the folder")


def open_tensors(file: Path) -> dict[str, Tensor]:
    """Name → memory-mapped tensor of a file; `ConfigError` if it is damaged or holds code."""
    fix = "expected undamaged weights without code; copy the file again"
    if file.suffix == ".safetensors":
        return load_safetensors(file, ConfigError, fix)
    state = load_torch(file, ConfigError, fix, mmap=True)
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise ConfigError(f"{file}: {name!r} is {type(tensor).__name__}, no tensor; {fix}")
    return {name: tensor.detach() for name, tensor in state.items()}


def _shorten(names: list[str]) -> str:
    """The first names of a list, and the number of others."""
    more = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
