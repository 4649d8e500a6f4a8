"""A foreign checkpoint. In: its folder. Out: its configuration, and its tensors one file at a time.

Weights are safetensors or, read with `weights_only` so that nothing in them is run, pytorch files;
one file or several with an index. No file is in memory before its tensors are asked for, and then
it is memory-mapped.
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

# Of one file, or of the index that names several; the first that is there counts.
FILES = ("model.safetensors", "pytorch_model.bin")
UNREADABLE = (OSError, SafetensorError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError)
SHOWN = 3  # names in a message

# As safetensors names them.
_TYPES = {
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
class SourceWeights:
    """What the weights of a folder are, known before any tensor is read.

    Attributes:
        folder: of the checkpoint.
        files: in order.
        places: tensor name → the file it is in.
        shapes: tensor name → its shape.
        dtypes: tensor name → its type.
    """

    folder: Path
    files: list[Path]
    places: dict[str, Path]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]

    def names(self, file: Path) -> list[str]:
        """Tensors of one file."""
        return [name for name, place in self.places.items() if place == file]

    def bytes(self, names: Iterable[str]) -> int:
        """Size of some tensors."""
        return sum(torch.Size(self.shapes[n]).numel() * self.dtypes[n].itemsize for n in names)

    def require(self, expected: dict[str, tuple[int, ...]], ignored: Callable[[str], bool]) -> None:
        """Check that exactly the expected tensors are there.

        Args:
            expected: name → shape.
            ignored: whether a further tensor of this name may be left out.

        Raises:
            ConfigError: tensors are missing, unexpected, of another shape or not floating point;
                the first few are named.
        """
        missing = sorted(expected.keys() - self.shapes.keys())
        if missing:
            raise ConfigError(f"{self.folder}: the weights lack {few(missing)}; copy all files")
        others = sorted(n for n in self.shapes.keys() - expected.keys() if not ignored(n))
        if others:
            raise ConfigError(
                f"{self.folder}: the weights hold {few(others)}, which no such model has; expected "
                "the checkpoint as published, neither quantised nor with adapters"
            )
        for name, shape in expected.items():
            if self.shapes[name] != shape or not self.dtypes[name].is_floating_point:
                raise ConfigError(
                    f"{self.folder}: tensor {name}: found {self.dtypes[name]} "
                    f"{self.shapes[name]}, expected floating point {shape}, as config.json says"
                )

    def tensors(
        self, file: Path, wanted: Callable[[str], bool] = lambda name: True
    ) -> Iterator[tuple[str, Tensor]]:
        """Name and value of each wanted tensor of one file, one at a time."""
        _, read = open_tensors(file)
        return ((name, read(name)) for name in self.names(file) if wanted(name))


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a model folder; `ConfigError` where there is none."""
    return read_object(
        folder / "config.json", ConfigError, "expected the folder of a downloaded checkpoint"
    )


def find_weights(folder: Path) -> SourceWeights:
    """Survey the weights of a model folder.

    Raises:
        ConfigError: there are none; a file is missing, not whole, or would need code to be run; or
            two files hold one tensor.
    """
    files = weight_files(folder)
    places: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, torch.dtype] = {}
    for file in files:
        for name, (shape, dtype) in open_tensors(file)[0].items():
            if name in places:
                raise ConfigError(f"{file}: holds {name}, which {places[name].name} has too")
            places[name], shapes[name], dtypes[name] = file, shape, dtype
    return SourceWeights(folder, files, places, shapes, dtypes)


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights of a folder; `ConfigError` if one is gone or all are."""
    for name in FILES:
        index = folder / f"{name}.index.json"
        if index.is_file():
            found = read_object(index, ConfigError, "copy it again")
            shards = sorted(set(found.get("weight_map", {}).values()))
            gone = [shard for shard in shards if not (folder / shard).is_file()]
            if gone or not shards:
                raise ConfigError(f"{folder}: {few(gone)} missing, named by {index.name}; copy it")
            return [folder / shard for shard in shards]
        if (folder / name).is_file():
            return [folder / name]
    wanted = " nor ".join((*FILES, *(f"{name}.index.json" for name in FILES)))
    raise ConfigError(f"{folder}: no weights: neither {wanted} is there; copy the weights there")


Description = dict[str, tuple[tuple[int, ...], torch.dtype]]


def open_tensors(file: Path) -> tuple[Description, ReadTensor]:
    """Name → shape and type of every tensor of a file, and a function that reads one.

    Raises:
        ConfigError: here or in that function, the file is not whole, or not plain tensors.
    """
    with _readable(file):
        if file.suffix != ".safetensors":
            state = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
            return {n: (tuple(t.shape), t.dtype) for n, t in state.items()}, state.__getitem__
        opened: Any = safe_open(file, "pt")
        names = list(opened.keys())
        described = {name: opened.get_slice(name) for name in names}
        found = {n: (tuple(d.get_shape()), _TYPES[d.get_dtype()]) for n, d in described.items()}

    def read(name: str) -> Tensor:
        with _readable(file):
            tensor: Tensor = opened.get_tensor(name)
            return tensor

    return found, read


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except (*UNREADABLE, KeyError, AttributeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"{file}: not whole, plain weights ({first[:200]}); copy the file again"
        ) from error


def few(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
