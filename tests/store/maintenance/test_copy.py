"""Copying a store: equal parts under another root, all checked."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rellm_cache.errors import StoreError
from rellm_cache.store.format import list_parts
from rellm_cache.store.maintenance import copy as transfer_module
from rellm_cache.store.maintenance.copy import copy_store
from rellm_cache.store.maintenance.hdf5 import export_store, import_store
from rellm_cache.store.maintenance.verify import check_store
from rellm_cache.store.reader import FeatureStore
from rellm_cache.utils.console import silent

Clips = dict[str, np.ndarray]
Write = Callable[..., FeatureStore]


def files(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.fixture
def store(write: Write, clips: Clips) -> Path:
    """Two parts, one clip in both."""
    write(clips)
    return write({"clip/00": clips["clip/01"]}, digest=1).path


@pytest.mark.parametrize("info", ["float16", "int8"], indirect=True)
def test_a_copy_equals_its_source_and_can_be_continued(
    store: Path, write: Write, clips: Clips, tmp_path: Path
) -> None:
    report = copy_store(store, tmp_path / "other", silent)
    assert (report.copied, report.present, report.utterances) == (2, 0, 13)
    assert files(report.store) == files(store)
    write({"new": clips["clip/02"]})
    report = copy_store(store, tmp_path / "other", silent)
    assert (report.copied, report.present, report.utterances) == (1, 2, 1)
    assert files(report.store) == files(store)
    assert check_store(report.store, silent).is_intact


@pytest.mark.parametrize("info", ["int8"], indirect=True)
def test_parts_with_another_int8_scale_cannot_be_copied_or_imported(
    store: Path, write_other_scale: Callable[[Path], Path], tmp_path: Path
) -> None:
    other = write_other_scale(tmp_path / "other")
    export_store(store, tmp_path / "out.h5", silent)
    expected = f"{other}: its int8 scale and mean differ from those of the added frames"
    with pytest.raises(StoreError, match=expected):
        copy_store(store, tmp_path / "other", silent)
    with pytest.raises(StoreError, match=expected):
        import_store(tmp_path / "out.h5", tmp_path / "other", silent)
    assert set(FeatureStore(other).ids) == {"x"}


def test_damage_is_not_copied(store: Path, tmp_path: Path) -> None:
    file = list_parts(store)[1] / "frames/c/0/0"
    data = bytearray(file.read_bytes())
    data[1] ^= 1
    file.write_bytes(data)
    with pytest.raises(StoreError, match=r"part-000002-\w+: damaged: .* `rellm cache repair"):
        copy_store(store, tmp_path / "other", silent)
    (copy,) = (tmp_path / "other").iterdir()
    assert len(list_parts(copy)) == 1


def test_a_copy_damaged_by_the_disk_never_appears(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copytree(source: Path, target: Path, **_options: object) -> None:
        target.mkdir(parents=True)

    monkeypatch.setattr(transfer_module.shutil, "copytree", copytree)
    with pytest.raises(StoreError, match="differs from the source"):
        copy_store(store, tmp_path / "other", silent)
    (copy,) = (tmp_path / "other").iterdir()
    assert list_parts(copy) == []


def test_a_store_is_not_copied_onto_itself(store: Path) -> None:
    with pytest.raises(StoreError, match="the same store"):
        copy_store(store, store.parent, silent)
