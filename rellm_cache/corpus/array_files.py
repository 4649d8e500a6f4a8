"""Array files: frames or vectors of utterances with ids and labels, as Parquet, safetensors, npy.

Rows are written as they come, so that memory does not grow with their number. docs/cache.md
describes the files. pandas, polars, DuckDB, `datasets` and plain NumPy read them without rellm.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from rellm_cache.corpus.dimensions import DIMENSIONS
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.errors import ConfigError, RellmError
from rellm_cache.utils.atomic_files import new_folder, write_file, write_json, write_lines

ArrayFormat = Literal["parquet", "safetensors", "npy"]
ABOUT = "rellm"  # key of what made the arrays: model, settings, licence
OFFSETS, UTTERANCES = "offsets", "utterances"
GROUP_BYTES = 32 << 20  # of arrays in a row group of a Parquet file
LARGEST_HEADER = 100_000_000  # bytes; the safetensors library refuses more
ALIGNMENT = 8  # bytes
_ENDINGS = {
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".npy": "npy",
    ".parquet": "parquet",
    ".safetensors": "safetensors",
}
_SAFETENSORS_TYPES = {"float16": "F16", "float32": "F32", "int64": "I64"}


@dataclass(frozen=True)
class ArrayColumn:
    """One array of each utterance: frames (L, D), or a vector (D,).

    Attributes:
        size: D.
        dtype: float16 or float32.
        is_sequence: whether there are L frames in place of one vector.
    """

    name: str
    size: int
    dtype: np.dtype[Any]
    is_sequence: bool


@dataclass(frozen=True)
class ArrayTable:
    """What an array file holds.

    Attributes:
        labels: id and labels of each of N utterances; all have the same keys.
        columns: arrays of each utterance.
        lengths: (N,) int64, L of each utterance; not used without sequences.
        rows: the arrays of each utterance, in the order of `labels` and `columns`.
        about: what made the arrays, as JSON.
    """

    labels: Sequence[Mapping[str, Any]]
    columns: Sequence[ArrayColumn]
    lengths: NDArray[np.int64]
    rows: Iterable[Sequence[np.ndarray]]
    about: Mapping[str, Any]

    @property
    def offsets(self) -> NDArray[np.int64]:
        """(N + 1,) int64: utterance i has the frames `offsets[i]` to `offsets[i + 1]`."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths, dtype=np.int64)])

    @property
    def has_sequences(self) -> bool:
        """Whether some column has frames, so that offsets are needed."""
        return any(column.is_sequence for column in self.columns)

    def shape(self, column: ArrayColumn) -> tuple[int, int]:
        """Shape of a column of all utterances: (sum of L, D), or (N, D)."""
        rows = int(self.lengths.sum()) if column.is_sequence else len(self.labels)
        return rows, column.size

    def bytes(self, column: ArrayColumn) -> int:
        """Size of a column of all utterances."""
        rows, size = self.shape(column)
        return rows * size * column.dtype.itemsize


def labels_of(utterance: Utterance) -> dict[str, Any]:
    """Id and labels of an utterance of a manifest; None where one is unknown."""
    vad = utterance.vad or (None, None, None)
    return {
        "id": utterance.id,
        "split": utterance.split or None,
        "speaker": utterance.speaker or None,
        "emotion": utterance.emotion,
        **dict(zip(DIMENSIONS, vad, strict=True)),
        "text": utterance.text or None,
    }


def require_array_output(out: Path, kind: str) -> None:
    """Raise before any work if a file of some format cannot be written.

    Raises:
        RellmError: `out` exists.
        ConfigError: its name has the ending of another format, or the library for the format is not
            installed.
    """
    if out.exists():
        raise RellmError(f"{out}: exists already; name another file or remove it")
    if (other := _ENDINGS.get(out.suffix.lower(), kind)) != kind:
        raise ConfigError(f"{out}: is the name of a file of {other}; add --format {other}")
    if kind == "parquet":
        _pyarrow()


def write_arrays(out: Path, kind: ArrayFormat, table: ArrayTable) -> None:
    """Write an array file, or the folder of a format with several; it appears when complete.

    Raises:
        RellmError: `out` exists, the disk is full, or ids and labels are too long for the header of
            a safetensors file.
        ConfigError: the library for the format is not installed.
    """
    require_array_output(out, kind)
    if kind == "npy":
        with new_folder(out, sum(map(table.bytes, table.columns))) as folder:
            _write_npy(folder, table)
    else:
        write = _write_parquet if kind == "parquet" else _write_safetensors
        write_file(out, lambda temporary: write(temporary, table))


def _write_npy(folder: Path, table: ArrayTable) -> None:
    write_lines(folder / f"{UTTERANCES}.jsonl", table.labels)
    write_json(folder / f"{ABOUT}.json", table.about, ensure_ascii=False)
    if table.has_sequences:
        np.save(folder / f"{OFFSETS}.npy", table.offsets, allow_pickle=False)
    starts = []
    for column in table.columns:
        path = folder / f"{column.name}.npy"
        header = {"descr": column.dtype.str, "fortran_order": False, "shape": table.shape(column)}
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            starts.append((path, file.tell()))
    _write_rows(table, starts)


def _write_safetensors(path: Path, table: ArrayTable) -> None:
    columns = sorted(table.columns, key=lambda column: -column.dtype.itemsize)  # alignment
    header: dict[str, Any] = {
        "__metadata__": {
            UTTERANCES: json.dumps(table.labels, ensure_ascii=False),
            ABOUT: json.dumps(table.about, ensure_ascii=False),
        }
    }
    offsets = table.offsets if table.has_sequences else np.zeros(0, np.int64)
    end = 0

    def add(name: str, dtype: np.dtype[Any], shape: tuple[int, ...], size: int) -> int:
        nonlocal end
        start, end = end, end + size
        kind = _SAFETENSORS_TYPES[dtype.name]
        header[name] = {"dtype": kind, "shape": [*shape], "data_offsets": [start, end]}
        return start

    if table.has_sequences:
        add(OFFSETS, offsets.dtype, offsets.shape, offsets.nbytes)
    begins = {c.name: add(c.name, c.dtype, table.shape(c), table.bytes(c)) for c in columns}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    if len(text) > LARGEST_HEADER:
        raise RellmError(
            f"{path.name}: ids and labels of {len(table.labels)} utterances need {len(text)} bytes "
            f"of header, and safetensors allows {LARGEST_HEADER}; write Parquet or npy"
        )
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        first = file.tell()
        file.write(offsets.astype("<i8").tobytes())
    _write_rows(table, [(path, first + begins[column.name]) for column in table.columns])


def _write_rows(table: ArrayTable, starts: Sequence[tuple[Path, int]]) -> None:
    """Write each column of all rows one after another, from its place in a file on."""
    with ExitStack() as stack:
        files: list[BinaryIO] = []
        for path, start in starts:
            files.append(stack.enter_context(path.open("r+b")))
            files[-1].seek(start)
        for row in _checked(table):
            for file, values in zip(files, row, strict=True):
                file.write(values.data)


def _checked(table: ArrayTable) -> Iterator[list[np.ndarray]]:
    """Contiguous rows; `RellmError` if one has another shape or type than the table says."""
    for labels, length, row in zip(table.labels, table.lengths, table.rows, strict=True):
        arrays = []
        for column, values in zip(table.columns, row, strict=True):
            expected = (int(length), column.size) if column.is_sequence else (column.size,)
            if values.shape != expected or values.dtype != column.dtype:
                raise RellmError(
                    f"{column.name} of {labels['id']!r}: found {values.dtype} {values.shape}, "
                    f"expected {column.dtype} {expected}"
                )
            arrays.append(np.ascontiguousarray(values))
        yield arrays


def _write_parquet(path: Path, table: ArrayTable) -> None:
    arrow, parquet = _pyarrow()
    schema = arrow.schema(
        [*_label_fields(arrow, table.labels), *_array_fields(arrow, table)],
        metadata={ABOUT: json.dumps(table.about, ensure_ascii=False)},
    )
    names = [field.name for field in schema if field.name in ("split", "speaker", "emotion")]
    with parquet.ParquetWriter(path, schema, compression="none", use_dictionary=names) as writer:
        for labels, rows in _groups(table):
            columns = [
                arrow.array([one[field.name] for one in labels], field.type)
                for field in list(schema)[: len(schema) - len(table.columns)]
            ]
            for place, column in enumerate(table.columns):
                columns.append(_arrow_array(arrow, column, [row[place] for row in rows]))
            writer.write_table(arrow.Table.from_arrays(columns, schema=schema))


def _groups(
    table: ArrayTable,
) -> Iterator[tuple[list[Mapping[str, Any]], list[list[np.ndarray]]]]:
    """Labels and arrays of some utterances, of about `GROUP_BYTES`."""
    labels: list[Mapping[str, Any]] = []
    rows: list[list[np.ndarray]] = []
    size = 0
    for own, row in zip(table.labels, _checked(table), strict=True):
        labels.append(own)
        rows.append(row)
        size += sum(values.nbytes for values in row)
        if size >= GROUP_BYTES:
            yield labels, rows
            labels, rows, size = [], [], 0
    if rows:
        yield labels, rows


def _label_fields(arrow: Any, labels: Sequence[Mapping[str, Any]]) -> list[Any]:
    names = list(labels[0]) if labels else ["id"]
    return [
        arrow.field(name, arrow.float32() if name in DIMENSIONS else arrow.string())
        for name in names
    ]


def _array_fields(arrow: Any, table: ArrayTable) -> list[Any]:
    fields = []
    for column in table.columns:
        kind = arrow.list_(arrow.from_numpy_dtype(column.dtype), column.size)
        fields.append(arrow.field(column.name, arrow.list_(kind) if column.is_sequence else kind))
    return fields


def _arrow_array(arrow: Any, column: ArrayColumn, values: Sequence[np.ndarray]) -> Any:
    """Arrow array of utterances' frames or vectors."""
    stacked = np.concatenate(values) if column.is_sequence else np.stack(values)
    items = arrow.FixedSizeListArray.from_arrays(arrow.array(stacked.reshape(-1)), column.size)
    if not column.is_sequence:
        return items
    ends = np.cumsum([0, *(len(frames) for frames in values)], dtype=np.int32)
    return arrow.ListArray.from_arrays(arrow.array(ends), items)


def _pyarrow() -> tuple[Any, Any]:
    """The modules pyarrow and pyarrow.parquet."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(
            "Parquet: the package pyarrow is not installed; pip install 'rellm[parquet]', or write "
            "safetensors or npy"
        ) from error
    return pyarrow, pyarrow.parquet
