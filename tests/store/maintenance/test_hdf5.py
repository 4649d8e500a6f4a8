"""HDF5: export and import are bit-exact, and other programs can read the file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tensorstore
import zarr

from rellm_cache.errors import StoreError
from rellm_cache.store.format import StoreInfo, list_parts
from rellm_cache.store.maintenance.hdf5 import export_store, import_store
from rellm_cache.store.maintenance.hdf5_probe import require_readable
from rellm_cache.store.maintenance.verify import check_store
from rellm_cache.store.part import frames_crc32c
from rellm_cache.store.quantization import Quantization
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.writer import StoreWriter
from rellm_cache.utils.console import silent

Clips = dict[str, np.ndarray]


def files(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.fixture
def store(tmp_path: Path, info: StoreInfo, steps: Quantization | None, clips: Clips) -> Path:
    """Two parts with dimensions, one clip in both."""
    random = np.random.default_rng(4)
    for keys in (list(clips), ["clip/00", "new/ü"]):
        with StoreWriter(tmp_path / "cache", info, steps, writers=[{"device": "cpu"}]) as writer:
            for key in keys:
                vad = random.uniform(size=3).astype(np.float32)
                digest = random.integers(0, 256, 32).astype(np.uint8)
                writer.add(key, digest, random.normal(size=(50, 8)), vad)
    return writer.path


@pytest.mark.parametrize("info", ["float16", "int8"], indirect=True)
def test_export_and_import_give_equal_files(store: Path, tmp_path: Path) -> None:
    assert export_store(store, tmp_path / "out.h5", silent) == 14
    report = import_store(tmp_path / "out.h5", tmp_path / "other", silent)
    assert (report.copied, report.present, report.utterances) == (2, 0, 14)
    assert files(report.store) == files(store)
    assert check_store(report.store, silent).is_intact
    report = import_store(tmp_path / "out.h5", tmp_path / "other", silent)
    assert (report.copied, report.present) == (0, 2)


@pytest.mark.parametrize("info", ["float16", "int8"], indirect=True)
def test_h5py_reads_an_export(store: Path, tmp_path: Path, info: StoreInfo) -> None:
    export_store(store, tmp_path / "out.h5", silent)
    reader = FeatureStore(store)
    clips = {}
    with h5py.File(tmp_path / "out.h5") as file:
        own = json.loads(file.attrs["rellm"])
        assert (own["fingerprint"], own["licence"]) == (info.spec.fingerprint, "test licence")
        for name in sorted(file):
            part = file[name]
            text, ends = part["ids"][:].tobytes(), part["id_offsets"][:]
            bounds = part["offsets"][:]
            assert json.loads(part.attrs["rellm"])["writers"] == [{"device": "cpu"}]
            for row in range(len(bounds) - 1):
                key = text[ends[row] : ends[row + 1]].decode()
                clips[key] = (part["frames"][bounds[row] : bounds[row + 1]], part["vad"][row])
    assert clips.keys() == set(reader.ids)
    for key, (frames, vad) in clips.items():
        np.testing.assert_array_equal(frames, reader.frames(key))
        np.testing.assert_array_equal(vad, reader.vad(key))


def test_a_damaged_file_or_store_is_an_error(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    export_store(store, out, silent)
    with pytest.raises(StoreError, match=r"out\.h5: exists already"):
        export_store(store, out, silent)
    with h5py.File(out, "r+") as file:
        name = sorted(file)[1]
        file[name]["frames"][3, 3] += 1
    with pytest.raises(StoreError, match="frames of 'clip/00' do not match their checksum"):
        import_store(out, tmp_path / "other", silent)
    out.write_bytes(b"no file of this kind")
    with pytest.raises(StoreError, match="expected a file that `rellm cache export` wrote"):
        import_store(out, tmp_path / "other", silent)
    (list_parts(store)[0] / "vad/c/0/0").unlink()
    with pytest.raises(StoreError, match=r"damaged: .*'vad' cannot be read"):
        export_store(store, tmp_path / "second.h5", silent)
    assert [p.name for p in tmp_path.glob("*.h5")] == ["out.h5"]
    assert not list(tmp_path.glob(".*.partial"))


def read_with_zarr(path: Path) -> np.ndarray:
    return np.asarray(zarr.open_array(str(path), mode="r")[:])


def read_with_tensorstore(path: Path) -> np.ndarray:
    spec: dict[str, Any] = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/"}}
    return np.asarray(tensorstore.open(spec, read=True).result().read().result())


@pytest.mark.parametrize("info", ["float16", "int8"], indirect=True)
@pytest.mark.parametrize("read", [read_with_zarr, read_with_tensorstore])
def test_other_readers_see_equal_values(
    store: Path, info: StoreInfo, read: Callable[[Path], np.ndarray]
) -> None:
    for part in FeatureStore(store).parts:
        frames = read(part.path / "frames")
        assert frames.dtype == info.dtype
        for row in range(len(part.ids)):
            start, stop = part.offsets[row : row + 2]
            np.testing.assert_array_equal(frames[start:stop], part.frames(row))
        np.testing.assert_array_equal(read(part.path / "offsets"), part.offsets)
        np.testing.assert_array_equal(read(part.path / "audio_sha256"), part.audio_sha256)
        np.testing.assert_array_equal(read(part.path / "frames_crc32c"), part.frames_crc32c)
        np.testing.assert_array_equal(read(part.path / "vad"), part.vad)
        assert read(part.path / "ids").tobytes().decode() == "".join(part.ids)


def first_part(file: h5py.File) -> h5py.Group:
    return file[sorted(file)[0]]


def with_other_frames(value: float) -> Callable[[h5py.File], None]:
    """A value in the first frames, and the sum that fits it."""

    def change(file: h5py.File) -> None:
        part = first_part(file)
        part["frames"][2, 3] = value
        stop = int(part["offsets"][1])
        part["frames_crc32c"][0] = frames_crc32c(part["frames"][:stop])

    return change


def replaced(name: str, make: Callable[[h5py.Group, str], None]) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        part = first_part(file)
        del part[name]
        make(part, name)

    return change


def linked(name: str, link: Any) -> Callable[[h5py.File], None]:
    return replaced(name, lambda part, own: part.__setitem__(own, link))


def virtual(part: h5py.Group, name: str) -> None:
    layout = h5py.VirtualLayout((3, 3), np.float32)
    layout[:] = h5py.VirtualSource("other.h5", "vad", (3, 3))
    part.create_virtual_dataset(name, layout)


def external(part: h5py.Group, name: str) -> None:
    part.create_dataset(name, (3, 3), np.float32, external=[("/etc/passwd", 0, 36)])


def huge(part: h5py.Group, name: str) -> None:
    part.create_dataset(name, (2**50, 3), np.float32, chunks=(1, 3))


CHANGES: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "NaN": (with_other_frames(np.nan), "frames of 'clip/00' have NaN or infinite values"),
    "infinity": (with_other_frames(-np.inf), "frames of 'clip/00' have NaN or infinite values"),
    "NaN in a column": (
        lambda file: first_part(file)["vad"].__setitem__((0, 1), np.nan),
        "vad: found NaN or infinite values",
    ),
    "link to another file": (
        linked("vad", h5py.ExternalLink("other.h5", "/vad")),
        r"found /part-.*/vad, a link to '/vad' in the file 'other\.h5'",
    ),
    "soft link": (linked("vad", h5py.SoftLink("/gone")), "found /part-.*/vad, a link to '/gone'"),
    "loop of links": (linked("vad", h5py.SoftLink("vad")), "found /part-.*/vad, a link to 'vad'"),
    "link at the root": (
        lambda file: file.__setitem__("loop", h5py.SoftLink("/loop")),
        "found /loop, a link to '/loop'",
    ),
    "arrays of other files": (replaced("vad", virtual), "made of arrays in other files"),
    "bytes of another file": (replaced("vad", external), "found .*vad in another file, .*passwd"),
    "absurd shape": (replaced("vad", huge), r"found .*vad with shape \(1125899906842624, 3\)"),
    "texts": (
        replaced("ids", lambda part, own: part.__setitem__(own, ["a", "b"])),
        "found .*ids with object, expected numbers",
    ),
    "another type": (
        replaced("offsets", lambda part, own: part.__setitem__(own, np.zeros(3))),
        "offsets: found float64",
    ),
    "a list as attributes": (
        lambda file: file.attrs.__setitem__("rellm", "[1]"),
        "expected a JSON object",
    ),
    "5,000 digits": (
        lambda file: file.attrs.__setitem__("rellm", "9" * 5000),
        "an integer of 5000 digits",
    ),
    "brackets": (lambda file: file.attrs.__setitem__("rellm", "[" * 9999), "nested too deep"),
    "a group": (replaced("frames", lambda part, own: part.create_group(own)), "damaged"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_what_no_export_has_is_refused_by_name(
    store: Path, tmp_path: Path, change: Callable[[h5py.File], None], message: str
) -> None:
    export_store(store, tmp_path / "out.h5", silent)
    with h5py.File(tmp_path / "out.h5", "r+") as file:
        change(file)
    with pytest.raises(StoreError, match=rf"out\.h5: .*{message}"):
        import_store(tmp_path / "out.h5", tmp_path / "other", silent)
    assert not list((tmp_path / "other").glob("*/part-*"))


def test_a_library_that_hangs_or_crashes_is_no_end(tmp_path: Path) -> None:
    h5py.File(tmp_path / "a.h5", "w").close()
    with pytest.raises(StoreError, match=r"a\.h5: damaged \(the HDF5 library reads it without"):
        require_readable(tmp_path / "a.h5", seconds=0.01)
