"""Data sets of the hub: files, splits, columns, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from miniature.containers import SOUND, hub_schema, write_arrow, write_disk, write_parquet

from rellm_cache.corpus.audio import load_clip
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.corpus.prepare import prepare
from rellm_cache.corpus.readers.datasets import DatasetsOptions, read_datasets
from rellm_cache.errors import ConfigError, ManifestError

MakeClip = Callable[..., Path]
CELL = {"bytes": b"sound", "path": "1.wav"}


def write(path: Path, rows: list[dict[str, object]], schema: pa.Schema | None = None) -> Path:
    """A parquet file; rows without an `audio` get one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"audio": {**CELL, "path": f"{i}.wav"}, **row} for i, row in enumerate(rows)]
    types = [("audio", SOUND)] + [(n, None) for n in rows[0] if n != "audio"]
    columns = {n: pa.array([r[n] for r in rows], kind) for n, kind in types}
    pq.write_table(pa.table(columns, schema=schema), path)
    return path


@pytest.fixture
def clips(make_clip: MakeClip) -> list[Utterance]:
    """Seven clips of three splits."""
    splits = ["train"] * 4 + ["validation", "test", "test"]
    return [
        Utterance(
            f"mine/{i}",
            str(make_clip(f"clips/{i}.wav", seconds=1.2, hertz=200 + 20 * i)),
            text=f"Sentence {i}.",
            emotion=("happy", "sad")[i % 2],
            speaker=f"mine/{i % 3}",
            split=split,
        )
        for i, split in enumerate(splits)
    ]


@pytest.mark.parametrize("write_set", [write_parquet, write_disk])
def test_a_data_set_becomes_utterances_that_point_into_it(
    clips: list[Utterance], tmp_path: Path, write_set: Callable[..., Path]
) -> None:
    root = write_set(tmp_path / "mine", clips)
    corpus = read_datasets(root)
    assert (corpus.name, corpus.root) == ("mine", root)
    by_id = {u.id: u for u in corpus.utterances}
    for clip in clips:
        found = by_id[clip.id]
        assert found.audio.startswith(f"{root}/")
        assert (found.text, found.emotion) == (clip.text, clip.emotion)
        assert (found.speaker, found.split) == (clip.speaker, clip.split)
        assert load_clip(found).digest.tobytes() == load_clip(clip).digest.tobytes()


def test_what_the_library_writes_is_read(clips: list[Utterance], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "audio": datasets.Audio(decode=False),
            "emotion": datasets.ClassLabel(names=["sad", "hap"]),
        }
    )
    rows = {
        "audio": [{"bytes": Path(c.audio).read_bytes(), "path": f"{c.id}.wav"} for c in clips],
        "emotion": [int(c.emotion == "happy") for c in clips],
    }
    table = pa.table(rows, schema=features.arrow_schema)
    whole = datasets.Dataset(datasets.table.InMemoryTable(table))
    whole.to_parquet(str(tmp_path / "hub/test.parquet"))
    whole.save_to_disk(str(tmp_path / "disk"))
    datasets.DatasetDict({"test": whole}).save_to_disk(str(tmp_path / "dict"))
    for root in ("hub", "hub/test.parquet", "disk", "dict"):
        corpus = read_datasets(tmp_path / root)
        assert [u.emotion for u in corpus.utterances] == [c.emotion for c in clips]
        assert corpus.utterances[0].id.endswith("/0")  # `save_to_disk` drops folders of names
        assert {u.split for u in corpus.utterances} == {"train" if root == "disk" else "test"}
        assert load_clip(corpus.utterances[3]).waveform.shape == (19_200,)


def test_columns_are_named_by_options(tmp_path: Path) -> None:
    rows = [{"label": "hap", "words": "Hi.", "who": 7, "act": 1.0, "dom": 3.0, "val": 5.0, "x": 1}]
    write(tmp_path / "a.parquet", rows)
    options = DatasetsOptions(
        emotion_column="label", text_column="words", speaker_column="who", arousal_column="act",
        dominance_column="dom", valence_column="val", vad_scale=(1.0, 5.0), split="test",
    )  # fmt: skip
    corpus = read_datasets(tmp_path, options)
    (found,) = corpus.utterances
    assert (found.emotion, found.text, found.speaker) == ("happy", "Hi.", "7")
    assert (found.vad, found.split) == ((0.0, 0.5, 1.0), "test")
    assert corpus.notes == [
        "Columns of the table that are not used: x",
        "1 row has no split, counted as test: the table has no column for it",
    ]
    with pytest.raises(
        ManifestError, match=r"a.parquet: found columns audio, label, .* named 'snd"
    ):
        read_datasets(tmp_path, DatasetsOptions(audio_column="snd"))


def test_ids_are_names_of_files_or_else_numbers_of_rows(tmp_path: Path) -> None:
    cells = [{"audio": {**CELL, "path": p}} for p in ("x/1.wav", "/home/me/2.wav")]
    write(tmp_path / "set/train.parquet", cells)
    assert [u.id for u in read_datasets(tmp_path / "set").utterances] == ["set/x/1", "set/2"]
    write(tmp_path / "set/test.parquet", cells)  # the same names again
    assert [u.id for u in read_datasets(tmp_path / "set").utterances] == [
        "set/test/0", "set/test/1", "set/train/0", "set/train/1",
    ]  # fmt: skip
    write(tmp_path / "one/a.parquet", [{"id": 9}])
    assert read_datasets(tmp_path / "one").utterances[0].id == "9"


def test_names_of_files_and_folders_tell_splits(tmp_path: Path) -> None:
    for name in ("data/train-00000-of-00001", "default/dev/0000", "test.clean.100", "x/rest"):
        write(tmp_path / f"{name}.parquet", [{}])
    found = {u.audio.rpartition("set/")[2]: u.split for u in read_datasets(tmp_path).utterances}
    assert sorted(found.values()) == ["test", "train", "train", "validation"]
    write(tmp_path / "own/test.parquet", [{"split": "validation"}])  # a column comes first
    assert read_datasets(tmp_path / "own").utterances[0].split == "validation"


def test_the_readme_tells_files_and_splits(tmp_path: Path) -> None:
    for name in ("en/a-0", "en/a-1", "en/b", "de/a"):
        write(tmp_path / f"{name}.parquet", [{"id": name}])
    head = """---
configs:
- config_name: en
  default: true
  data_files:
  - split: train
    path: en/a-*
  - split: test
    path: [en/b.parquet]
- config_name: de
  data_dir: de
- config_name: none
  data_files: {train: "fr/*"}
---
"""
    (tmp_path / "README.md").write_text(head, "utf-8")

    def splits(config: str = "") -> dict[str, str]:
        return {
            u.id: u.split
            for u in read_datasets(tmp_path, DatasetsOptions(config=config)).utterances
        }

    assert splits() == {"en/a-0": "train", "en/a-1": "train", "en/b": "test"}
    assert splits("de") == {"de/a": "train"}
    with pytest.raises(
        ManifestError, match=r"found no configuration 'it'; .*--config: en, de, none"
    ):
        splits("it")
    with pytest.raises(
        ManifestError, match=r"README.md: the patterns of configuration 'none' match"
    ):
        splits("none")
    (tmp_path / "README.md").write_text(head.replace("  default: true\n", ""), "utf-8")
    with pytest.raises(ManifestError, match=r"found 3 configurations; name one with --config"):
        splits()
    for broken in ("---\nconfigs: [1]\n---\n", "---\na: b: c\n---\n", "---\nconfigs: 3\n---\n"):
        (tmp_path / "README.md").write_text(broken, "utf-8")
        with pytest.raises(ManifestError, match=r"README.md: its header cannot be read"):
            splits()


def test_folders_of_configurations_without_a_readme(tmp_path: Path) -> None:
    """As the hub's branch refs/convert/parquet has them."""
    for name in ("en/train/0000", "de/train/0000", "de/test/0000"):
        write(tmp_path / f"{name}.parquet", [{"id": name}])
    with pytest.raises(ManifestError, match=r"found 2 configurations; .*--config: de, en"):
        read_datasets(tmp_path)
    corpus = read_datasets(tmp_path, DatasetsOptions(config="de"))
    assert {u.id: u.split for u in corpus.utterances} == {
        "de/train/0000": "train", "de/test/0000": "test",
    }  # fmt: skip
    with pytest.raises(ManifestError, match=r"found no configuration 'fr'"):
        read_datasets(tmp_path, DatasetsOptions(config="fr"))


def test_loading_scripts_are_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    script = tmp_path / "set/set.py"
    script.parent.mkdir()
    script.write_text(f"open({str(marker)!r}, 'w')\n", "utf-8")
    with pytest.raises(ManifestError, match=r"script set.py is not run; .*refs/convert/parquet"):
        read_datasets(tmp_path / "set")
    write(tmp_path / "set/data/train-0.parquet", [{}])
    assert len(read_datasets(tmp_path / "set").utterances) == 1
    assert not marker.exists()


def test_folders_without_data_files_say_what_reads_them(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"found no parquet .*; save the data set with `to_par"):
        read_datasets(tmp_path)
    (tmp_path / "a.tar").touch()
    with pytest.raises(ManifestError, match=r"`rellm prepare webdataset .*` reads tar files"):
        read_datasets(tmp_path)
    (tmp_path / "metadata.csv").touch()
    with pytest.raises(ManifestError, match=r"folder .*metadata.csv --audio-column file_name`"):
        read_datasets(tmp_path)
    with pytest.raises(ManifestError, match=r"gone: expected a folder, .* or a hub id"):
        read_datasets(tmp_path / "gone")


def test_a_hub_id_without_network_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"data set 'nobody/none': .* the hub could not give it"):
        read_datasets(Path("nobody/none"))


def test_a_hub_id_is_read_from_the_hubs_cache(
    clips: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache's files are links to names without suffix."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    repository, commit = hub / "datasets--me--voices", "0" * 40
    written = write_parquet(tmp_path / "written", clips)
    for file in sorted(written.rglob("*.parquet")):
        blob = repository / "blobs" / str(abs(hash(file.name)))
        blob.parent.mkdir(parents=True, exist_ok=True)
        file.rename(blob)
        link = repository / "snapshots" / commit / file.relative_to(written)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit, "utf-8")
    corpus = read_datasets(Path("me/voices"))
    assert corpus.name == "voices"
    assert sorted(u.id for u in corpus.utterances) == [c.id for c in clips]
    assert load_clip(corpus.utterances[0]).seconds == 1.2


def test_of_a_hub_id_only_the_files_in_use_are_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("en/test/0000", "de/test/0000"):
        write(tmp_path / f"hub/{name}.parquet", [{"id": name}])
    (tmp_path / "hub/evil.py").write_text("raise SystemExit", "utf-8")
    names = sorted(p.relative_to(tmp_path / "hub").as_posix() for p in tmp_path.rglob("*.p*"))
    asked: list[object] = []

    def download(name: str, **kept: object) -> str:
        asked.append((name, kept["allow_patterns"], kept["revision"], kept["repo_type"]))
        return str(tmp_path / "hub")

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda *_, **__: names)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    options = DatasetsOptions(config="de", revision="refs/convert/parquet")
    assert [u.id for u in read_datasets(Path("me/set"), options).utterances] == ["de/test/0000"]
    assert asked == [
        ("me/set", ["README.md"], "refs/convert/parquet", "dataset"),
        ("me/set", ["de/test/0000.parquet"], "refs/convert/parquet", "dataset"),
    ]


def test_paths_beside_the_table_are_sound_files(make_clip: MakeClip, tmp_path: Path) -> None:
    make_clip("set/clips/1.wav")
    cells = [{"audio": {"bytes": None, "path": "clips/1.wav"}, "id": "mine/1"}]
    write(tmp_path / "set/train.parquet", cells)
    (found,) = read_datasets(tmp_path / "set").utterances
    assert found.audio == str(tmp_path / "set/clips/1.wav")
    options = DatasetsOptions(audio_folder=str(tmp_path / "set/clips"))
    write(tmp_path / "set/train.parquet", [{"audio": {"bytes": None, "path": "1.wav"}}])
    (found,) = read_datasets(tmp_path / "set", options).utterances
    assert (found.id, load_clip(found).seconds) == ("set/1", 1.5)


@pytest.mark.parametrize("path", ["../1.wav", "x/../../1.wav", "/etc/passwd", "https://a.b/1.wav"])
def test_paths_out_of_the_folder_are_refused(tmp_path: Path, path: str) -> None:
    write(tmp_path / "set/train.parquet", [{"audio": {"bytes": None, "path": path}}])
    with pytest.raises(
        ManifestError, match=r"train.parquet:0: found audio '.*', expected a path in"
    ):
        read_datasets(tmp_path / "set")


@pytest.mark.parametrize("name", ["../x.arrow", "/etc/passwd", "a/b.arrow", 7, "..", ""])
def test_state_files_may_only_name_files_beside_them(tmp_path: Path, name: object) -> None:
    state = {"_data_files": [{"filename": name}]}
    (tmp_path / "state.json").write_text(json.dumps(state), "utf-8")
    with pytest.raises(ManifestError, match=r"state.json: found _data_files .*, expected names of"):
        read_datasets(tmp_path)
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": [name]}), "utf-8")
    with pytest.raises(ManifestError, match=r"dataset_dict.json: found splits .*, expected names"):
        read_datasets(tmp_path)


def test_rows_without_sound_are_left_out_by_clip(clips: list[Utterance], tmp_path: Path) -> None:
    data = Path(clips[0].audio).read_bytes()
    cells: list[object] = [{"bytes": data, "path": "a.wav"}, None, {"bytes": b"", "path": "c.wav"}]
    cells += [{"bytes": b"<html>" * 40, "path": "d.wav"}, {"bytes": data[:9000], "path": "e.wav"}]
    schema = hub_schema(["sad"])
    table = pa.Table.from_pylist([{"audio": c, "emotion": 0} for c in cells], schema)
    write_arrow(tmp_path / "train.arrow", table)
    report = prepare(read_datasets(tmp_path / "train.arrow"), tmp_path / "out")
    assert report.kept == {"train": 1}
    assert (report.missing, report.unreadable) == (0, 4)
    reasons = [row["reason"] for row in report.excluded]
    for row, (reason, part) in enumerate(
        zip(reasons, ["has no sound", "file is empty", "HTML", "truncated"], strict=True), 1
    ):
        assert reason.startswith(f"{tmp_path}/train.arrow:{row}#audio: ")
        assert part in reason


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [{}])
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    with pytest.raises(ManifestError, match=r"b.parquet: truncated or damaged, or no parquet file"):
        read_datasets(tmp_path)


def test_numbers_without_classes_are_unknown_emotions_unless_mapped(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [{"emotion": 1}])
    with pytest.raises(ManifestError, match=r"a.parquet:0: unknown emotion '1'"):
        read_datasets(tmp_path)
    (tmp_path / "map.json").write_text('{"1": "sad"}', "utf-8")
    options = DatasetsOptions(labels=str(tmp_path / "map.json"))
    assert read_datasets(tmp_path, options).utterances[0].emotion == "sad"
