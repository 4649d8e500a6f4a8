"""Quantized copy of an LLM: its 4-bit or 8-bit weights, saved once and loaded by memory map.

Quantizing 15 GB of weights takes minutes at every start; reading the result takes seconds.

    <models root>/quantized/<name>-<kind>-<key>/
        config.json, model*.safetensors       the model in bitsandbytes' own format
        copy.json                             its source, and checksums of its files

The copy has the values that quantizing gives, bit for bit. It is a cache: it can be deleted.
"""

import dataclasses
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import google_crc32c
import torch
import transformers
from torch import Tensor

from rellm_cache.config.schema import LLMConfig
from rellm_cache.config.specs import digest
from rellm_cache.errors import ConfigError, RellmError
from rellm_cache.llm.bitsandbytes_import import bitsandbytes
from rellm_cache.utils.atomic_files import replaced_folder, write_json
from rellm_cache.utils.console import say
from rellm_cache.utils.json_files import build_record, read_object
from rellm_cache.utils.model_files import models_root, weight_files
from rellm_cache.utils.regular_files import file_digest, open_regular
from rellm_cache.utils.weight_shards import ShardedModelWriter

FOLDER = "quantized"  # under the models root
RECORD = "copy.json"
VERSION = 1  # of what a copy holds
DIGITS = 12  # hex digits of the key in a folder's name
BLOCK = 16_000_000  # bytes that are read at once
ROWS = 4096  # of a matrix that are compared at once
SAMPLES, SAMPLE = 64, 4096  # parts of a weight file that enter the key, and their bytes
SETTINGS = ("config.json", "generation_config.json")
REMAKE = "it is made again"


@dataclass(frozen=True)
class _File:
    """A file of a copy."""

    bytes: int
    crc32c: int


@dataclass(frozen=True)
class _Record:
    """Content of `copy.json`."""

    source: str  # the model folder
    made_from: dict[str, Any]  # as `QuantizedCopy.made_from`
    files: dict[str, _File]  # by name


class QuantizedCopy:
    """The quantized copy of the LLM in a folder; there may be none yet.

    Args:
        folder: the model that is quantized.
        dtype: dtype of computations, in which the weights are quantized.
    """

    def __init__(self, folder: Path, config: LLMConfig, dtype: torch.dtype) -> None:
        self._source = folder
        self._name = Path(config.model).name
        self._kind = config.quantization
        self._dtype = str(dtype).removeprefix("torch.")

    @cached_property
    def made_from(self) -> dict[str, Any]:
        """All that determines the bytes of the copy.

        A weight file enters by name, size, time of change and parts of its bytes: hashing all of it
        would take as long as reading the copy.
        """
        settings = [self._source / name for name in SETTINGS]
        weights = weight_files(self._source)
        return {
            "version": VERSION,
            "kind": self._kind,
            "dtype": self._dtype,
            "bitsandbytes": bitsandbytes.__version__,
            "transformers": transformers.__version__,
            "settings": {path.name: file_digest(path) for path in settings if path.is_file()},
            "weights": {path.name: _describe(path) for path in weights},
        }

    @property
    def path(self) -> Path:
        """The folder of the copy."""
        key = digest(self.made_from)[:DIGITS]
        return models_root() / FOLDER / f"{self._name}-{self._kind}-{key}"

    def is_ready(self) -> bool:
        """Whether the copy is there and whole; a damaged or foreign one is named."""
        if not self.path.exists():
            return False
        if problem := self._problem():
            say(f"{problem}; {REMAKE}")
        return not problem

    def _problem(self) -> str:
        """What is wrong with the folder of the copy, else ""."""
        path = self.path / RECORD
        try:
            record = build_record(_Record, read_object(path, ConfigError, REMAKE))
        except ConfigError as error:
            return str(error).removesuffix(f"; {REMAKE}")
        except ValueError as error:
            return f"{path}: {error}"
        if record.made_from != self.made_from:
            return f"{self.path}: this copy was made from other weights ({record.source})"
        for name, file in record.files.items():
            try:
                found = _checksum(self.path / Path(name).name)
            except OSError as error:
                return f"{self.path / name}: {error.strerror}"
            if found != file:
                return f"{self.path / name}: found other bytes than {RECORD} says"
        return ""

    def write(self, model: Any) -> None:
        """Save a model that was quantized from the source, and remove its older copies.

        A copy that cannot be written, or that another process is writing, is only reported: the
        model is loaded, and the next start quantizes again.
        """
        sizes = (tensor.nbytes for tensor in model.state_dict().values())
        try:
            with replaced_folder(self.path, sum(sizes)) as temporary:
                model.config.save_pretrained(temporary)
                _write_weights(model, temporary)
                names = sorted(path.name for path in temporary.iterdir())
                files = {name: _checksum(temporary / name) for name in names}
                record = _Record(str(self._source), self.made_from, files)
                write_json(temporary / RECORD, dataclasses.asdict(record))
        except RellmError as error:
            say(f"Note: no quantized copy was kept ({error}); the next start quantizes again")
            return
        self._remove_older()

    def _remove_older(self) -> None:
        """Remove other copies of this folder's model, whose weights or libraries have changed."""
        for path in self.path.parent.glob(f"{self._name}-{self._kind}-*/{RECORD}"):
            try:
                record = build_record(_Record, read_object(path, ConfigError, REMAKE))
            except (ConfigError, ValueError):
                continue  # not ours, or damaged: it is named when it is used
            same = (record.source, record.made_from.get("dtype")) == (
                str(self._source),
                self._dtype,
            )
            if same and path.parent != self.path:
                say(f"{path.parent}: removed, a copy of weights or libraries that have changed")
                shutil.rmtree(path.parent, ignore_errors=True)


def _write_weights(model: Any, out: Path) -> None:
    """Write the model's tensors, tied ones once, into safetensors files of bounded size."""
    parameters = dict(model.named_parameters())
    writer, written = ShardedModelWriter(out), set()
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape)
        if place in written and name not in parameters:
            continue  # tied: transformers ties it again
        written.add(place)
        plain = name in parameters and tensor.is_floating_point()
        writer.add(name, (_narrow(tensor) if plain else tensor).detach().cpu().contiguous())
    writer.close()


def _narrow(tensor: Tensor) -> Tensor:
    """The tensor in bfloat16, if no value changes: most checkpoints have bfloat16 weights.

    `loading.widen` converts it back.
    """
    narrow = torch.empty(tensor.shape, dtype=torch.bfloat16)
    for start in range(0, len(tensor), ROWS):  # only parts exist in a third copy
        part, wide = narrow[start : start + ROWS], tensor[start : start + ROWS]
        if not torch.equal(part.copy_(wide).to(wide), wide):
            return tensor
    return narrow


def _describe(path: Path) -> list[int]:
    """Size, time of change in ns, and a CRC-32C over parts of a weight file."""
    found = path.stat()
    crc, step = 0, max(SAMPLE, found.st_size // SAMPLES)
    with open_regular(path) as file:
        for start in range(0, found.st_size, step):
            file.seek(start)
            crc = google_crc32c.extend(crc, file.read(SAMPLE))
    return [found.st_size, found.st_mtime_ns, crc]


def _checksum(path: Path) -> _File:
    crc, size = 0, 0
    with open_regular(path) as file:
        while block := file.read(BLOCK):
            crc, size = google_crc32c.extend(crc, block), size + len(block)
    return _File(size, crc)
