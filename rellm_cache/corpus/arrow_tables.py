"""Parquet and Arrow files: their columns by row, and the sound in one cell, read where it is.

`datasets` writes both: parquet for the hub, Arrow streams for `save_to_disk`. A value of an Audio
column is the bytes of a sound file, a path, or samples with their sampling rate. pyarrow is an
extra, imported when the first such file is read. No code of a data set is ever run.

One cell of a parquet file is read with its whole row group. The row groups read last are kept, up
to `KEPT_BYTES`, so that clips in the order of the file are read once. Arrow files are mapped.
"""

import struct
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from rellm_cache.corpus.audio_location import TableCell
from rellm_cache.errors import AudioError, ConfigError, ManifestError, RellmError
from rellm_cache.utils.json_files import decode
from rellm_cache.utils.regular_files import require_regular

KEPT_BYTES = 256 << 20
LARGEST_GROUP = 1 << 30  # bytes of a row group
SUFFIXES = (".parquet", ".arrow")
_DAMAGED = "copy it again from its source"
_END = b"\xff\xff\xff\xff\0\0\0\0"  # of an Arrow stream
_FLOAT, _PCM = 3, 1  # codings of a WAV file
_lock = threading.RLock()  # a reader of parquet is not safe in several threads


@dataclass(frozen=True)
class AudioCell:
    """What a row has in its audio column.

    Attributes:
        path: of a sound file outside of the table; "" if the sound is in the table, or if there is
            none.
        name: file name beside the bytes, or "".
    """

    path: str = ""
    name: str = ""


class ArrowTable:
    """Rows of one parquet or Arrow file.

    Raises:
        AudioError: the file is truncated, damaged, or compressed Arrow.
        ConfigError: pyarrow is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrow, self._parquet = _pyarrow()
        require_regular(path, AudioError, "expected a parquet or Arrow file")
        with self._errors():
            self._open()

    def _open(self) -> None:
        if self.path.suffix.lower() == ".parquet":
            self._file = self._parquet.ParquetFile(self.path)
            self.schema = self._file.schema_arrow
            groups = self._file.metadata
            sizes = [groups.row_group(g).num_rows for g in range(groups.num_row_groups)]
        else:
            self._file = None
            mapped = self._arrow.memory_map(str(self.path)).read_buffer()
            is_file = mapped[:6].to_pybytes() == b"ARROW1"
            if not is_file and mapped[-len(_END) :].to_pybytes() != _END:
                raise AudioError(f"{self.path}: truncated, it has no end mark; {_DAMAGED}")
            reader = self._arrow.ipc.open_file if is_file else self._arrow.ipc.open_stream
            with reader(mapped) as batches:
                self.schema = batches.schema
                self._batches = [self._require_mapped(b, mapped) for b in _batches_of(batches)]
            sizes = [batch.num_rows for batch in self._batches]
        self.columns: list[str] = list(self.schema.names)
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)

    def _require_mapped(self, batch: Any, mapped: Any) -> Any:
        """The record batch; `AudioError` if it is damaged, or a copy of compressed bytes."""
        batch.validate(full=True)  # damaged offsets would point anywhere
        buffers = [b for c in batch.columns for b in c.buffers() if b is not None and b.size]
        inside = (mapped.address <= b.address < mapped.address + mapped.size for b in buffers)
        if not all(inside):
            raise AudioError(
                f"{self.path}: a compressed Arrow file, which cannot be read in place; save it as "
                "parquet, or without compression"
            )
        return batch

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self._starts[-1])

    @property
    def class_names(self) -> dict[str, list[str]]:
        """Names of the classes of each ClassLabel column, as `datasets` records them."""
        recorded = (self.schema.metadata or {}).get(b"huggingface", b"")
        try:
            features = decode(recorded.decode("utf-8"))["info"]["features"]
            found = {name: f["names"] for name, f in features.items() if "names" in f}
        except (ValueError, KeyError, TypeError, AttributeError):
            return {}  # written by another program than `datasets`
        return {name: list(map(str, names)) for name, names in found.items() if names}

    def read_rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Values of some columns of every row, ClassLabels by their names."""
        if not columns:
            yield from ({} for _ in range(self.rows))
            return
        classes = self.class_names
        for group in range(len(self._starts) - 1):
            with self._errors():
                rows = self._group(group, columns).to_pylist()
            for number, row in enumerate(rows, int(self._starts[group])):
                for name in classes.keys() & row.keys():
                    row[name] = self._class_name(number, name, row[name], classes[name])
                yield row

    def _class_name(self, row: int, column: str, value: Any, names: list[str]) -> Any:
        if not isinstance(value, int):
            return value
        if value == -1:  # `datasets` writes it where the label is hidden
            return None
        if not 0 <= value < len(names):
            raise ManifestError(
                f"{self.path}:{row}: {column} is {value}, expected 0 to {len(names) - 1} of the "
                f"column's classes {', '.join(names)}"
            )
        return names[value]

    def read_audio(self, column: str) -> Iterator[AudioCell]:
        """What each row has in its audio column; bytes of sound are not read, if that can be.

        Raises:
            ManifestError: the column has another form, or a row group is too large.
        """
        kind = self._kind(column)
        for group in range(len(self._starts) - 1):
            rows = int(self._starts[group + 1] - self._starts[group])
            self._require_small(group, ManifestError)
            with self._errors():
                if kind == "path":
                    values = self._group(group, [column]).column(0).to_pylist()
                    cells = [AudioCell(path=value or "") for value in values]
                elif kind == "bytes":
                    cells = [AudioCell()] * rows
                else:
                    cells = self._struct_cells(group, column, rows)
            yield from cells

    def _struct_cells(self, group: int, column: str, rows: int) -> list[AudioCell]:
        fields = [field.name for field in self.schema.field(column).type]
        names: list[str | None] = [None] * rows
        if "path" in fields:
            names = self._field(group, column, "path").to_pylist()
        inside = [True] * rows
        if "array" not in fields:
            inside = self._have_bytes(group, column) if "bytes" in fields else [False] * rows
        return [
            AudioCell(name=name or "") if here else AudioCell(path=name or "")
            for name, here in zip(names, inside, strict=True)
        ]

    def _field(self, group: int, column: str, name: str) -> Any:
        """Values of a field of a struct column."""
        values = self._group(group, [f"{column}.{name}"]).column(0)
        return self._arrow.compute.struct_field(values, name)

    def _have_bytes(self, group: int, column: str) -> list[bool]:
        """Which rows have bytes. Of parquet, the first row of the file tells it for all.

        A row without bytes then has an error of its own when it is read. Statistics are not used:
        pyarrow ends the process where they are damaged.
        """
        if self._file is not None and self._first_has_bytes(column):
            return [True] * int(self._starts[group + 1] - self._starts[group])
        have: list[bool] = self._field(group, column, "bytes").is_valid().to_pylist()
        return have

    def _first_has_bytes(self, column: str) -> bool:
        small = self._parquet.ParquetFile(self.path, buffer_size=1 << 16)  # reads page by page
        with small as file:
            for batch in file.iter_batches(1, columns=[f"{column}.bytes"], use_threads=False):
                return bool(self._arrow.compute.struct_field(batch.column(0), "bytes")[0].is_valid)
        return False

    def read_sound(self, row: int, column: str) -> bytes:
        """The bytes of the sound file in a cell; samples become the bytes of a WAV file.

        Raises:
            AudioError: there is no such row or column, or it has no sound.
        """
        where = TableCell(str(self.path), row, column)
        if row >= self.rows or column not in self.columns:
            raise AudioError(
                f"{where}: found {self.rows} rows with columns {', '.join(self.columns)}; the file "
                "changed, prepare again"
            )
        kind = self._kind(column)
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        self._require_small(group, AudioError)
        with self._errors():
            values = self._kept_group(group, column).column(0)
            value = values[row - int(self._starts[group])]
            if kind == "bytes":
                return b"" if not value.is_valid else value.as_buffer().to_pybytes()
            if kind == "struct" and value.is_valid:
                parts = dict(value.items())
                data = parts.get("bytes")
                if data is not None and data.is_valid:
                    return bytes(data.as_buffer().to_pybytes())
                if (samples := parts.get("array")) is not None and samples.is_valid:
                    return _wav(samples.values, parts.get("sampling_rate"), where)
                if (path := parts.get("path")) is not None and path.is_valid:
                    raise AudioError(
                        f"{where}: the row has a path, {path.as_py()!r}, and no bytes, unlike the "
                        "file's first row; put the sound in the table, or only paths"
                    )
        raise AudioError(
            f"{where}: the row has no sound (null); leave the row out, or complete the data set"
        )

    def _kind(self, column: str) -> str:
        """Form of an audio column; `ManifestError` if it is none."""
        types = self._arrow.types
        with self._errors():
            kind = self.schema.field(column).type
            fields = {field.name for field in kind} if types.is_struct(kind) else set()
        if types.is_binary(kind) or types.is_large_binary(kind):
            return "bytes"
        if types.is_string(kind) or types.is_large_string(kind):
            return "path"
        if fields & {"bytes", "path"} or {"array", "sampling_rate"} <= fields:
            return "struct"
        raise ManifestError(
            f"{self.path}: column {column!r} is {kind}, expected sound: bytes and path as of "
            "`datasets.Audio`, bytes, a path, or array and sampling_rate; name the column with "
            "--audio-column"
        )

    def _require_small(self, group: int, error: type[RellmError]) -> None:
        if self._file is None:
            return
        size = self._file.metadata.row_group(group).total_byte_size
        if size > LARGEST_GROUP:
            raise error(
                f"{self.path}: row group {group} has {size} bytes, expected at most "
                f"{LARGEST_GROUP}, since a clip is read with its row group; write it again with "
                "smaller ones, as pyarrow.parquet.write_table(table, path, row_group_size=100)"
            )

    def _group(self, group: int, columns: Sequence[str]) -> Any:
        """A row group or record batch with some columns, as `a` or, of a struct, `a.b`."""
        if self._file is None:
            names = list(dict.fromkeys(c if c in self.columns else c.rpartition(".")[0]
                                       for c in columns))  # fmt: skip
            return self._arrow.Table.from_batches([self._batches[group]]).select(names)
        with _lock:
            return self._file.read_row_group(group, columns=list(columns), use_threads=False)

    def _kept_group(self, group: int, column: str) -> Any:
        if self._file is None:
            return self._group(group, [column])
        with _lock:
            key = (self, group, column)
            if key not in _kept.groups:
                _kept.add(key, self._group(group, [column]))
            _kept.groups.move_to_end(key)
            return _kept.groups[key]

    def _errors(self) -> "_Damage":
        return _Damage(self.path, self._arrow)


class _KeptGroups:
    """The row groups that were read last, up to `KEPT_BYTES`, and always the last one."""

    def __init__(self) -> None:
        self.groups: OrderedDict[tuple[ArrowTable, int, str], Any] = OrderedDict()
        self._bytes = 0

    def add(self, key: "tuple[ArrowTable, int, str]", group: Any) -> None:
        """Add a row group, and drop those that were not used for the longest time."""
        self.groups[key] = group
        self._bytes += group.nbytes
        while self._bytes > KEPT_BYTES and len(self.groups) > 1:
            self._bytes -= self.groups.popitem(last=False)[1].nbytes


_kept = _KeptGroups()


class _Damage:
    """Context in which an error of pyarrow becomes an `AudioError` that names the file."""

    def __init__(self, path: Path, arrow: Any) -> None:
        self.path, self.arrow = path, arrow

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RellmError) or error is None:
            return
        if isinstance(error, self.arrow.ArrowException | OSError | ValueError | KeyError):
            reason = str(error).partition("\n")[0][:200]
            raise AudioError(
                f"{self.path}: truncated or damaged, or no {self.path.suffix[1:]} file ({reason}); "
                f"{_DAMAGED}"
            ) from error


def _batches_of(reader: Any) -> Iterator[Any]:
    """Record batches of an Arrow file, or of an Arrow stream."""
    if hasattr(reader, "get_batch"):
        return (reader.get_batch(n) for n in range(reader.num_record_batches))
    return iter(reader)


def read_cell(cell: TableCell, largest: int) -> bytes:
    """The bytes of the sound file in a cell.

    Args:
        largest: bytes that it may have.

    Raises:
        OSError: there is no such file.
        AudioError: there is no such cell, it has no sound, or it is larger.
        ConfigError: pyarrow is not installed.
    """
    path = Path(cell.container)
    found = path.stat()
    with _lock:
        table = _open(path, found.st_mtime_ns, found.st_size)
    try:
        data = table.read_sound(cell.row, cell.column)
    except ManifestError as error:
        raise AudioError(str(error)) from error
    if len(data) > largest:
        raise AudioError(
            f"{cell}: found {len(data)} bytes of sound, expected at most {largest}; cut it into "
            "clips"
        )
    return data


@lru_cache(maxsize=16)
def _open(path: Path, changed: int, size: int) -> ArrowTable:
    """A table; `changed` and `size` tell one version of a file from the next."""
    return ArrowTable(path)


def _wav(values: Any, rate: Any, where: TableCell) -> bytes:
    """A WAV file of samples: 16-bit integers as they are, floats as 32-bit floats."""
    if rate is None or not rate.is_valid or not 0 < rate.as_py() < 1 << 31:
        raise AudioError(f"{where}: found samples without a sampling rate; expected sampling_rate")
    if values.null_count:
        raise AudioError(f"{where}: {values.null_count} samples are null; expected numbers")
    samples = values.to_numpy(zero_copy_only=False)
    if samples.dtype.kind == "f":
        coding, data = _FLOAT, samples.astype("<f4")
    elif samples.dtype == np.int16:
        coding, data = _PCM, samples.astype("<i2")
    else:
        raise AudioError(
            f"{where}: found samples of type {samples.dtype}, expected one channel of floats or "
            "16-bit integers"
        )
    width, hertz = data.itemsize, rate.as_py()
    head = struct.pack("<HHIIHH", coding, 1, hertz, hertz * width, width, 8 * width)
    body: bytes = b"WAVEfmt " + struct.pack("<I", len(head)) + head
    body += b"data" + struct.pack("<I", data.nbytes) + data.tobytes()
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _pyarrow() -> tuple[Any, Any]:
    """The modules `pyarrow` and `pyarrow.parquet`; `ConfigError` if they are not installed."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(
            "parquet and Arrow files need pyarrow, which is not installed; "
            "pip install 'rellm[datasets]'"
        ) from error
    return pyarrow, pyarrow.parquet
