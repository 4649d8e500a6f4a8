"""Parquet and Arrow files: rows, the sound in a cell, and every form that is no sound."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from miniature.containers import SOUND, hub_schema, write_arrow

from rellm_cache.corpus import arrow_tables
from rellm_cache.corpus.arrow_tables import ArrowTable, AudioCell, read_cell
from rellm_cache.corpus.audio_location import TableCell
from rellm_cache.errors import AudioError, ManifestError

LIMIT = 1 << 20
CELLS = [{"bytes": bytes([i]) * 9, "path": f"{i}.wav"} for i in range(5)]


def write(path: Path, table: pa.Table) -> Path:
    if path.suffix == ".arrow":
        return write_arrow(path, table)
    pq.write_table(table, path, row_group_size=2)
    return path


def sounds(cells: list[object], kind: pa.DataType = SOUND) -> pa.Table:
    return pa.table({"audio": pa.array(cells, kind), "number": range(len(cells))})


@pytest.fixture(params=["a.parquet", "a.arrow"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / str(request.param)


def test_rows_and_sounds_are_read(path: Path) -> None:
    table = ArrowTable(write(path, sounds(CELLS)))
    assert (table.columns, table.rows) == (["audio", "number"], 5)
    assert [row["number"] for row in table.read_rows(["number"])] == [0, 1, 2, 3, 4]
    assert [*table.read_rows([])] == [{}] * 5
    assert [*table.read_audio("audio")] == [AudioCell(name=f"{i}.wav") for i in range(5)]
    for row in (3, 0, 4, 1, 2):
        assert table.read_sound(row, "audio") == CELLS[row]["bytes"]
    with pytest.raises(AudioError, match=rf"{path}:5#audio: found 5 rows .* prepare again"):
        table.read_sound(5, "audio")
    with pytest.raises(AudioError, match=rf"{path}:0#sound: found 5 rows with columns audio, numb"):
        table.read_sound(0, "sound")


def test_an_arrow_file_with_an_index_is_read_like_a_stream(tmp_path: Path) -> None:
    table = sounds(CELLS)
    with (
        pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table, max_chunksize=2)
    found = ArrowTable(tmp_path / "a.arrow")
    assert [found.read_sound(i, "audio") for i in range(5)] == [c["bytes"] for c in CELLS]


def test_classes_are_names(path: Path) -> None:
    schema = hub_schema(["sad", "happy"])
    rows = [{"emotion": number, "id": "x"} for number in (1, 0, -1, None)]
    table = ArrowTable(write(path, pa.Table.from_pylist(rows, schema)))
    assert [r["emotion"] for r in table.read_rows(["emotion"])] == ["happy", "sad", None, None]
    wrong = write(path, pa.Table.from_pylist([{"emotion": 2}], schema))
    with pytest.raises(ManifestError, match=rf"{wrong}:0: emotion is 2, expected 0 to 1 of .* sad"):
        list(ArrowTable(wrong).read_rows(["emotion"]))


@pytest.mark.parametrize("metadata", [b"{", b'{"info": []}', b"\xff", b'{"info": {"features": 1}}'])
def test_metadata_of_another_program_is_no_error(path: Path, metadata: bytes) -> None:
    table = sounds(CELLS).replace_schema_metadata({b"huggingface": metadata})
    assert ArrowTable(write(path, table)).class_names == {}


def test_bytes_without_a_struct_and_paths(path: Path) -> None:
    for kind in (pa.binary(), pa.large_binary()):
        table = ArrowTable(write(path, sounds([b"one", b"", None], kind)))
        assert [*table.read_audio("audio")] == [AudioCell()] * 3
        assert [table.read_sound(i, "audio") for i in (0, 1, 2)] == [b"one", b"", b""]
    for kind in (pa.string(), pa.large_string()):
        table = ArrowTable(write(path, sounds(["x/1.wav", None, "2.wav"], kind)))
        found = [cell.path for cell in table.read_audio("audio")]
        assert found == ["x/1.wav", "", "2.wav"]


def test_rows_with_a_path_alone_and_null_rows(path: Path) -> None:
    cells = [{"bytes": None, "path": "x/1.wav"}, None, {"bytes": None, "path": None}]
    table = ArrowTable(write(path, sounds(cells)))
    assert [*table.read_audio("audio")] == [AudioCell(path="x/1.wav"), AudioCell(), AudioCell()]
    for row in (1, 2):
        with pytest.raises(AudioError, match=rf"{path}:{row}#audio: the row has no sound \(null\)"):
            table.read_sound(row, "audio")
    only = ArrowTable(write(path, sounds([{"path": "1.wav"}], pa.struct([("path", pa.string())]))))
    assert [*only.read_audio("audio")] == [AudioCell(path="1.wav")]


def test_a_path_alone_after_rows_with_bytes(tmp_path: Path) -> None:
    cells = [CELLS[0], {"bytes": None, "path": "x/1.wav"}]
    arrow = ArrowTable(write(tmp_path / "a.arrow", sounds(cells)))
    assert [*arrow.read_audio("audio")][1] == AudioCell(path="x/1.wav")
    parquet = ArrowTable(write(tmp_path / "a.parquet", sounds(cells)))
    assert [*parquet.read_audio("audio")][1] == AudioCell(name="x/1.wav")
    with pytest.raises(AudioError, match=r"#audio: the row has a path, 'x/1.wav', and no bytes"):
        parquet.read_sound(1, "audio")


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64(), pa.int16()])
def test_decoded_samples_become_a_wav_file(path: Path, kind: pa.DataType) -> None:
    samples = np.array([0, 0.5, -0.25, 1], np.float32)
    stored = (samples * 2000).astype(np.int16) if pa.types.is_integer(kind) else samples
    decoded = pa.struct([("array", pa.list_(kind)), ("path", pa.string()), ("sampling_rate",
                         pa.int64())])  # fmt: skip
    cells = [{"array": stored.tolist(), "path": "1.wav", "sampling_rate": 8000}]
    table = ArrowTable(write(path, sounds(cells, decoded)))
    assert [*table.read_audio("audio")] == [AudioCell(name="1.wav")]
    data = table.read_sound(0, "audio")
    dtype = "int16" if stored.dtype == np.int16 else "float32"
    read, rate = soundfile.read(io.BytesIO(data), dtype=dtype)
    np.testing.assert_array_equal(read, stored)
    assert rate == 8000
    assert data == table.read_sound(0, "audio")


def test_samples_that_are_no_sound_are_refused(path: Path) -> None:
    def read(array: object, rate: object, kind: pa.DataType) -> None:
        form = pa.struct([("array", kind), ("sampling_rate", pa.int64())])
        cells = [{"array": array, "sampling_rate": rate}]
        ArrowTable(write(path, sounds(cells, form))).read_sound(0, "audio")

    with pytest.raises(AudioError, match=r"#audio: found samples without a sampling rate"):
        read([0.5], None, pa.list_(pa.float32()))
    with pytest.raises(AudioError, match=r"#audio: 1 samples are null"):
        read([0.5, None], 8000, pa.list_(pa.float32()))
    with pytest.raises(AudioError, match=r"#audio: found samples of type int64, expected one chan"):
        read([5], 8000, pa.list_(pa.int64()))
    with pytest.raises(AudioError, match=r"#audio: found samples of type object, expected one ch"):
        read([[0.5], [0.1]], 8000, pa.list_(pa.list_(pa.float32())))


def test_a_column_that_is_no_sound_is_refused(path: Path) -> None:
    table = ArrowTable(write(path, sounds(CELLS)))
    with pytest.raises(
        ManifestError, match=r"column 'number' is int64, expected sound: .*--audio-"
    ):
        list(table.read_audio("number"))
    with pytest.raises(AudioError, match=r"column 'number' is int64, expected sound"):
        read_cell(TableCell(str(path), 0, "number"), LIMIT)


def test_a_large_sound_and_a_large_row_group_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.parquet", sounds([{"bytes": bytes(LIMIT + 1), "path": None}]))
    cell = TableCell(str(path), 0, "audio")
    with pytest.raises(AudioError, match=rf"{path}:0#audio: found {LIMIT + 1} bytes of sound, exp"):
        read_cell(cell, LIMIT)
    monkeypatch.setattr(arrow_tables, "LARGEST_GROUP", LIMIT)
    with pytest.raises(AudioError, match=r"row group 0 has \d+ bytes, expected at most .*group_si"):
        read_cell(cell, 2 * LIMIT)
    with pytest.raises(ManifestError, match=r"row group 0 has \d+ bytes"):
        list(ArrowTable(path).read_audio("audio"))


def test_row_groups_are_kept_up_to_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = arrow_tables._KeptGroups()
    monkeypatch.setattr(arrow_tables, "_kept", kept)
    cells = [{"bytes": bytes([i]) * 1000, "path": None} for i in range(12)]
    monkeypatch.setattr(arrow_tables, "KEPT_BYTES", 5000)  # two groups of two clips
    table = ArrowTable(write(tmp_path / "a.parquet", sounds(cells)))
    for row, groups in [(0, [0]), (1, [0]), (3, [0, 1]), (5, [1, 2]), (2, [2, 1]), (11, [1, 5])]:
        table.read_sound(row, "audio")
        assert [group for _, group, _ in kept.groups] == groups
    monkeypatch.setattr(arrow_tables, "KEPT_BYTES", 1)  # the last one is kept in any case
    assert table.read_sound(7, "audio") == cells[7]["bytes"]
    assert [group for _, group, _ in kept.groups] == [3]


def test_compressed_arrow_is_refused(tmp_path: Path) -> None:
    cells = [{"bytes": bytes(5000), "path": "x"}]
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    path = write_arrow(tmp_path / "a.arrow", sounds(cells), options)
    with pytest.raises(
        AudioError, match=rf"{path}: a compressed Arrow file, .* save it as parquet"
    ):
        ArrowTable(path)


def test_a_truncated_file_is_refused_wherever_it_is_cut(path: Path) -> None:
    whole = write(path, sounds(CELLS)).read_bytes()
    for size in range(0, len(whole), 61):
        path.write_bytes(whole[:size])
        with pytest.raises(AudioError, match=rf"{path}: truncated"):
            ArrowTable(path)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").mkdir()
    with pytest.raises(AudioError, match=r"a.parquet: found a folder, expected a regular file"):
        ArrowTable(tmp_path / "a.parquet")
    with pytest.raises(FileNotFoundError):
        read_cell(TableCell(str(tmp_path / "gone.parquet"), 0, "audio"), LIMIT)
