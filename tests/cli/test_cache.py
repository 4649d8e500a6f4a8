"""rellm cache: what each command prints, and its exit code."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.store.format import StoreInfo, list_parts
from rellm_cache.store.writer import StoreWriter

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two parts; `b` is in both."""
    info = StoreInfo(EncoderSpec(kind="prosody"), 8, "none")
    for part, names in enumerate((["a", "b"], ["b", "c"])):
        with StoreWriter(tmp_path / "cache", info) as writer:
            for name in names:
                frames = np.full((50 + part, 8), part)
                writer.add(name, np.full(32, part, np.uint8), frames)
    return writer.path


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)


def test_ls(run: Run, store: Path) -> None:
    code, out, _ = run("cache", "ls", store)
    assert code == 0
    assert [line.split()[-1] for line in out.splitlines()] == ["a", "b", "c"]
    code, out, _ = run("cache", "ls", store, "--json")
    clips = [json.loads(line) for line in out.splitlines()]
    assert [(c["id"], c["frames"], c["seconds"]) for c in clips] == [
        ("a", 50, 1.0), ("b", 51, 1.02), ("c", 51, 1.02),
    ]  # fmt: skip
    assert clips[1]["part"].startswith("part-000002-")
    assert clips[1]["audio_sha256"] == "01" * 32


def test_the_exit_code_of_an_intact_cache_is_0(run: Run, store: Path) -> None:
    code, out, err = run("cache", "verify", store.parent)
    assert (code, err) == (0, "")
    assert out == f"{store}: intact, 4 utterances in 2 parts\n"
    code, out, _ = run("cache", "repair", store.parent)
    assert (code, out) == (0, f"{store}: intact, nothing to do\n")


def test_the_exit_code_of_damage_is_1_and_of_lost_clips_3(run: Run, store: Path) -> None:
    part = list_parts(store)[1]
    flip(part / "frames/c/0/0")
    code, out, _ = run("cache", "verify", store.parent)
    assert code == 1
    assert f"{part.name}: frames of 1 of 2 utterances do not match their checksum" in out
    assert "1 utterance: b" in out
    assert f"rellm cache repair {store.parent}" in out
    code, out, _ = run("cache", "verify", store.parent, "--json")
    (found,) = json.loads(out)["stores"]
    assert code == 1
    assert found["damaged_parts"][0]["utterances"] == ["b"]
    (store.parent / ".writing").mkdir()
    (store.parent / ".writing" / "half").mkdir()
    code, out, _ = run("cache", "repair", store.parent, "--json")
    report = json.loads(out)
    assert code == 3
    assert report["stores"][0]["lost"] == ["b"]
    assert report["leftovers"]["removed"] == [str(store.parent / ".writing/half")]
    assert run("cache", "verify", store.parent)[0] == 0


def test_repair_names_the_command_for_lost_clips(run: Run, store: Path) -> None:
    flip(list_parts(store)[1] / "frames/c/0/0")
    code, out, _ = run("cache", "repair", store.parent)
    assert code == 3
    assert "1 clip lost: b" in out
    assert f"{store}.lost.jsonl" in out
    (store / "zarr.json").unlink()
    for part in list_parts(store):
        (part / "zarr.json").unlink()
    code, out, _ = run("cache", "repair", store.parent)
    assert code == 1
    assert "not repaired" in out


def test_prune_and_compact(run: Run, store: Path) -> None:
    code, out, _ = run("cache", "prune", store.parent, "--dry-run")
    assert code == 0
    assert "would free 0.0 MB: 1 superseded row" in out
    manifest = store.parent.parent / "keep.jsonl"
    manifest.write_text('{"id": "a", "audio": "a.wav"}\n{"id": "b", "audio": "b.wav"}\n')
    code, out, _ = run("cache", "prune", store.parent, "--keep", manifest, "--json")
    assert code == 0
    assert json.loads(out)["stores"][0]["outside"] == 1
    assert run("cache", "compact", store.parent)[1] == f"{store}: 2 parts, now 1\n"
    code, out, _ = run("cache", "compact", store.parent, "--json")
    assert json.loads(out)["stores"][0]["parts_after"] == 1


def test_copy_export_and_import(run: Run, store: Path, tmp_path: Path) -> None:
    code, out, _ = run("cache", "copy", store.parent, tmp_path / "copy")
    assert (code, "2 parts copied (4 utterances), 0 already present" in out) == (0, True)
    code, out, _ = run("cache", "export", store, tmp_path / "out.h5")
    assert (code, out) == (0, f"{tmp_path}/out.h5: 4 utterances\n")
    with h5py.File(tmp_path / "out.h5") as file:
        assert len(file) == 2
    code, out, _ = run("cache", "import", tmp_path / "out.h5", "--cache", tmp_path / "new")
    assert (code, "2 parts added (4 utterances)" in out) == (0, True)
    assert run("cache", "ls", tmp_path / "new" / store.name)[1] == run("cache", "ls", store)[1]


def test_audio_needs_a_manifest(run: Run, store: Path) -> None:
    code, _, err = run("cache", "verify", store.parent, "--audio")
    assert code == 2
    assert "--audio and --recompute need --manifest" in err


def test_the_exit_code_of_missing_audio_is_3(run: Run, store: Path) -> None:
    manifest = store.parent.parent / "manifest.jsonl"
    manifest.write_text('{"id": "a", "audio": "gone.wav"}\n')
    arguments = ("cache", "verify", store.parent, "--manifest", manifest, "--audio")
    code, out, _ = run(*arguments, "--recompute", "1")
    assert code == 3
    assert "0 changed, 1 unreadable" in out
    assert "0 clips encoded again" in out
    code, out, _ = run(*arguments, "--json")
    assert code == 3
    assert list(json.loads(out)["audio"][0]["unreadable"]) == ["a"]
