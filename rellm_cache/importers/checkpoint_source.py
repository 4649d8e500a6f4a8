"""Checkpoint reader: configuration and tensors of another project's model folder.

Weights are safetensors or PyTorch files, one file or several with an index. PyTorch files are read
with `weights_only`, so no code in them runs. Files are memory-mapped, one at a time.
"""

import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rellm_cache.errors import ConfigError
from rellm_cache.utils.json_files import read_object

# Either one file or the index of several; the first one found is used.
FILES = ("model.safetensors", "pytorch_model.bin")
UNREADABLE = (OSError, SafetensorError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError)
SHOWN_NAMES = 3  # in a message

# By the names of safetensors.
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

ReadTensor = Callable[[str], Tensor]


@dataclass(frozen=True)
class CheckpointWeights:
    """Names, shapes and dtypes of all tensors of a checkpoint, read before any tensor.

    Attributes:
        folder: of the checkpoint.
        files: in order.
        file_of: tensor name → file.
        shapes: tensor name → shape.
        dtypes: tensor name → dtype.
    """

    folder: Path
    files: list[Path]
    file_of: dict[str, Path]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]

    def bytes(self, names: Iterable[str]) -> int:
        """Size of these tensors."""
        return sum(torch.Size(self.shapes[n]).numel() * self.dtypes[n].itemsize for n in names)

    def check(self, expected: dict[str, tuple[int, ...]], ignored: Callable[[str], bool]) -> None:
        """Check that exactly the expected tensors are present.

        Args:
            expected: name → shape.
            ignored: tells whether a tensor that is not expected may be present.

        Raises:
            ConfigError: tensors are missing or unexpected, have another shape or are not floating
                point; the message names the first few.
        """
        missing = sorted(expected.keys() - self.shapes.keys())
        if missing:
            raise ConfigError(
                f"{self.folder}: the weights lack {_shorten(missing)}; copy all files again"
            )
        others = sorted(n for n in self.shapes.keys() - expected.keys() if not ignored(n))
        if others:
            raise ConfigError(
                f"{self.folder}: the weights hold {_shorten(others)}, which this model does not "
                "have; expected the published checkpoint, neither quantized nor with adapters"
            )
        for name, shape in expected.items():
            if self.shapes[name] != shape or not self.dtypes[name].is_floating_point:
                raise ConfigError(
                    f"{self.folder}: tensor {name}: found {self.dtypes[name]} "
                    f"{self.shapes[name]}, expected floating point {shape}; copy the weights that "
                    "belong to config.json"
                )

    def tensors(
        self, file: Path, wanted: Callable[[str], bool] = lambda name: True
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield name and value of each wanted tensor of one file."""
        _, read = open_tensors(file)
        names = (name for name, place in self.file_of.items() if place == file)
        return ((name, read(name)) for name in names if wanted(name))


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a model folder; `ConfigError` if there is none."""
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
    file_of: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, torch.dtype] = {}
    for file in files:
        for name, (shape, dtype) in open_tensors(file)[0].items():
            if name in file_of:
                raise ConfigError(
                    f"{file}: found {name}, which {file_of[name].name} holds too; copy both again"
                )
            file_of[name], shapes[name], dtypes[name] = file, shape, dtype
    return CheckpointWeights(folder, files, file_of, shapes, dtypes)


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder; `ConfigError` if one or all are missing."""
    for name in FILES:
        index = folder / f"{name}.index.json"
        if index.is_file():
            weight_map = read_object(index, ConfigError, "copy it again").get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise ConfigError(f"{index}: expected names of files in weight_map; copy it again")
            shards = sorted(set(map(str, weight_map.values())))
            if gone := [shard for shard in shards if not (folder / shard).is_file()]:
                raise ConfigError(
                    f"{folder}: {_shorten(gone)} missing, listed in {index.name}; copy all files"
                )
            return [folder / shard for shard in shards]
        if (folder / name).is_file():
            return [folder / name]
    wanted = " nor ".join((*FILES, *(f"{name}.index.json" for name in FILES)))
    raise ConfigError(f"{folder}: found neither {wanted}; copy the weights into the folder")


Description = dict[str, tuple[tuple[int, ...], torch.dtype]]


def open_tensors(file: Path) -> tuple[Description, ReadTensor]:
    """Name → shape and dtype of every tensor of a file, and a function that reads one.

    Raises:
        ConfigError: the file is damaged or holds more than tensors. That function raises it too.
    """
    with _translated_errors(file):
        if file.suffix != ".safetensors":
            state = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
            return {n: (tuple(t.shape), t.dtype) for n, t in state.items()}, state.__getitem__
        opened: Any = safe_open(file, "pt")
        names = list(opened.keys())
        described = {name: opened.get_slice(name) for name in names}
        found = {n: (tuple(d.get_shape()), _DTYPES[d.get_dtype()]) for n, d in described.items()}

    def read(name: str) -> Tensor:
        with _translated_errors(file):
            tensor: Tensor = opened.get_tensor(name)
            return tensor

    return found, read


@contextmanager
def _translated_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except (*UNREADABLE, KeyError, AttributeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"{file}: expected undamaged weights without code ({first[:200]}); copy the file again"
        ) from error


def _shorten(names: list[str]) -> str:
    """The first names of a list, and the number of others."""
    more = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
