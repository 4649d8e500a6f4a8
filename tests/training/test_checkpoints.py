"""Checkpoint folders: two are kept; a damaged one is named, and the previous one is used."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rellm_cache.training.checkpoints import PARTIAL, SUMS, CheckpointFolders, find_damage


def save(checkpoints: CheckpointFolders, *steps: int) -> Path:
    def write(folder: Path) -> None:
        (folder / "adapter.safetensors").write_bytes(b"weights" * 100)
        (folder / "state.pt").write_bytes(b"state" * 100)

    return [checkpoints.save(step, write) for step in steps][-1]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "state.pt": (cut, "state.pt: found other bytes"),
    "adapter.safetensors": (flip, "adapter.safetensors: found other bytes"),
    SUMS: (lambda file: file.write_text(""), "SHA256SUMS: found "),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(tmp_path: Path, name: str) -> None:
    save(CheckpointFolders(tmp_path), 10, 20)
    damage, message = DAMAGE[name]
    damage(tmp_path / "step-00000020" / name)
    step, notes = CheckpointFolders(tmp_path).find_newest()
    assert step == 10
    (note,) = notes
    assert note.startswith(f"{tmp_path / 'step-00000020'}: the checkpoint is damaged and skipped")
    assert message in note
    assert note.endswith(f"training continues from {tmp_path / 'step-00000010'}")


def test_a_finished_run_keeps_one_checkpoint(tmp_path: Path) -> None:
    checkpoints = CheckpointFolders(tmp_path)
    save(checkpoints, 10, 20)
    last = checkpoints.save(20, lambda folder: (folder / "state.pt").write_bytes(b"end"), kept=1)
    assert names(tmp_path) == ["step-00000020"]
    assert names(last) == [SUMS, "state.pt"]
    assert CheckpointFolders(tmp_path).find_newest() == (20, [])


@pytest.mark.parametrize("name", ["state.pt", "adapter.safetensors", SUMS])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    path = save(CheckpointFolders(tmp_path), 10)
    assert find_damage(path) == {}
    (path / name).unlink()
    assert CheckpointFolders(tmp_path).find_newest()[0] == 0
    (note,) = CheckpointFolders(tmp_path).find_newest()[1]
    assert name in note
    assert "none is intact, training starts again" in note


def test_the_last_two_intact_checkpoints_are_kept(tmp_path: Path) -> None:
    save(CheckpointFolders(tmp_path), 10, 20, 30)
    assert names(tmp_path) == ["step-00000020", "step-00000030"]
    cut(tmp_path / "step-00000030/state.pt")
    later = CheckpointFolders(tmp_path)
    assert later.find_newest()[0] == 20
    save(later, 25)  # the damaged one goes, what it fell back to stays
    assert names(tmp_path) == ["step-00000020", "step-00000025"]


def test_a_half_written_folder_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / PARTIAL).mkdir()
    (tmp_path / PARTIAL / "state.pt").write_bytes(b"half")
    checkpoints = CheckpointFolders(tmp_path)
    assert checkpoints.find_newest() == (0, [])
    assert find_damage(save(checkpoints, 5)) == {}
    assert names(tmp_path) == ["step-00000005"]


def test_a_step_saved_again_replaces_itself(tmp_path: Path) -> None:
    checkpoints = CheckpointFolders(tmp_path)
    save(checkpoints, 10, 20, 20)
    assert names(tmp_path) == ["step-00000010", "step-00000020"]


def test_no_checkpoints_at_all(tmp_path: Path) -> None:
    assert CheckpointFolders(tmp_path / "none").find_newest() == (0, [])
