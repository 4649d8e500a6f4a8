"""The same labelled clips as a table of files, parquet, `save_to_disk`, tar shards and zips."""

import csv
import dataclasses
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rellm_cache.corpus.manifest import Utterance, read_manifests
from rellm_cache.corpus.prepare import prepare
from rellm_cache.corpus.readers.datasets import read_datasets
from rellm_cache.corpus.readers.table import read_table
from rellm_cache.corpus.readers.webdataset import read_webdataset

KINDS = ("parquet", "disk", "tar", "zip", "deflated")
COLUMNS = ("id", "text", "emotion", "speaker")
SOUND = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_table(out: Path, utterances: Sequence[Utterance], audio: Callable[[Path], str]) -> Path:
    """A CSV table; `audio` gives the cell of a sound file."""
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, "split", "audio"])
        for u in utterances:
            writer.writerow([u.id, u.text, u.emotion, u.speaker, u.split, audio(Path(u.audio))])
    return out


def write_zip(
    out: Path, utterances: Sequence[Utterance], compression: int = zipfile.ZIP_STORED
) -> Path:
    """A zip archive of the sounds, with a table of its members beside it."""
    with zipfile.ZipFile(out, "w", compression) as archive:
        archive.writestr("licence.txt", "free")
        for u in utterances:
            archive.write(u.audio, f"clips/{Path(u.audio).name}")
    return write_table(
        out.with_suffix(".csv"), utterances, lambda path: f"{out.name}#clips/{path.name}"
    )


def write_tars(folder: Path, utterances: Sequence[Utterance]) -> Path:
    """WebDataset shards, one for each split."""
    folder.mkdir()
    for split in dict.fromkeys(u.split for u in utterances):
        members: dict[str, bytes] = {}
        for u in utterances:
            if u.split == split:
                path = Path(u.audio)
                row = {name: getattr(u, name) for name in COLUMNS}
                members[f"clips/{path.name}"] = path.read_bytes()
                members[f"clips/{path.stem}.json"] = json.dumps(row).encode()
        write_tar(folder / f"{split}-000.tar", members)
    return folder


def write_tar(out: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(out, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out


def hub_schema(classes: Sequence[str], sound: pa.DataType = SOUND) -> pa.Schema:
    """The schema that `datasets` writes: emotions are numbers of classes."""
    features = {
        "audio": {"_type": "Audio"},
        "emotion": {"names": list(classes), "_type": "ClassLabel"},
    }
    return pa.schema(
        [("id", pa.string()), ("audio", sound), ("text", pa.string()), ("emotion", pa.int64()),
         ("speaker", pa.string())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )  # fmt: skip


def hub_table(utterances: Sequence[Utterance]) -> pa.Table:
    """Rows of utterances with their sounds, as an Audio column has them."""
    classes = sorted({u.emotion or "" for u in utterances})
    rows: list[dict[str, Any]] = [
        {
            "id": u.id,
            "audio": {"bytes": Path(u.audio).read_bytes(), "path": Path(u.audio).name},
            "text": u.text,
            "emotion": classes.index(u.emotion or ""),
            "speaker": u.speaker,
        }
        for u in utterances
    ]
    return pa.Table.from_pylist(rows, hub_schema(classes))


def write_parquet(folder: Path, utterances: Sequence[Utterance], group: int = 3) -> Path:
    """A folder as of a repository on the hub: one parquet file for each split."""
    (folder / "data").mkdir(parents=True)
    for split, table in _by_split(utterances).items():
        path = folder / f"data/{split}-00000-of-00001.parquet"
        pq.write_table(table, path, row_group_size=group)
    return folder


def write_disk(folder: Path, utterances: Sequence[Utterance]) -> Path:
    """A folder as of `DatasetDict.save_to_disk`."""
    tables = _by_split(utterances)
    for split, table in tables.items():
        (folder / split).mkdir(parents=True)
        write_arrow(folder / split / "data-00000-of-00001.arrow", table)
        state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": split}
        (folder / split / "state.json").write_text(json.dumps(state), "utf-8")
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": [*tables]}), "utf-8")
    return folder


def write_arrow(path: Path, table: pa.Table, options: Any = None) -> Path:
    with (
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_stream(file, table.schema, options=options) as writer,
    ):
        writer.write_table(table, max_chunksize=2)
    return path


def _by_split(utterances: Sequence[Utterance]) -> dict[str, pa.Table]:
    splits = dict.fromkeys(u.split for u in utterances)
    whole = hub_table(utterances)
    return {
        split: whole.filter(pa.array([u.split == split for u in utterances])) for split in splits
    }


def prepared(kind: str, folder: Path, utterances: Sequence[Utterance], group: int = 3) -> Path:
    """The manifest of the utterances, with their sound in a container of this kind."""
    if kind == "parquet":
        corpus = read_datasets(write_parquet(folder / "parquet", utterances, group))
    elif kind == "disk":
        corpus = read_datasets(write_disk(folder / "disk", utterances))
    elif kind == "tar":
        corpus = read_webdataset(write_tars(folder / "tar", utterances))
    elif kind == "files":
        corpus = read_table(write_table(folder / "files.csv", utterances, str))
    else:
        method = zipfile.ZIP_DEFLATED if kind == "deflated" else zipfile.ZIP_STORED
        corpus = read_table(write_zip(folder / f"{kind}.zip", utterances, method))
    return prepare(corpus, folder / "manifests" / kind).out


def without_place(manifest: Path) -> dict[str, Utterance]:
    """Utterances by id without what tells where their sound is."""
    return {
        u.id: dataclasses.replace(u, audio="", source_sha256=None) for u in read_manifests(manifest)
    }
