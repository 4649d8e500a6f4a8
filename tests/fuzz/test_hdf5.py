"""Fuzzing of HDF5 import: damaged bytes, and other values, shapes, types and links."""

import shutil
from pathlib import Path

import h5py
import numpy as np
from fuzzing import damaged_bytes, damaged_json, fuzz, value_or_named_error
from hypothesis import strategies as st

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.store.format import StoreInfo
from rellm_cache.store.maintenance.hdf5 import export_store, import_store
from rellm_cache.store.writer import StoreWriter
from rellm_cache.utils.console import silent
from rellm_cache.utils.json_files import decode

NAMES = ("frames", "offsets", "ids", "id_offsets", "audio_sha256", "frames_crc32c", "vad")
KINDS = ("bytes", "delete", "soft", "external", "shape", "type", "values", "text", "group", "huge")


def test_hdf5(tmp_path: Path) -> None:
    info = StoreInfo(EncoderSpec(kind="prosody"), 8, "test licence")
    random = np.random.default_rng(0)
    with StoreWriter(tmp_path / "cache", info) as writer:
        for key in ("a", "ü"):
            frames = random.normal(size=(20, 8))
            writer.add(key, np.zeros(32, np.uint8), frames, np.zeros(3, np.float32))
    export_store(writer.path, tmp_path / "whole.h5", silent)
    whole, path = (tmp_path / "whole.h5").read_bytes(), tmp_path / "damaged.h5"
    with h5py.File(tmp_path / "whole.h5") as file:
        attribute = decode(file.attrs["rellm"])

    def change(kind: str, name: str, number: int, text: bytes) -> None:
        with h5py.File(path, "r+") as file:
            part = file[sorted(file)[0]]
            if kind == "text":
                (file if number % 2 else part).attrs["rellm"] = text.decode(
                    "utf-8", "replace"
                ).replace("\0", "")
                return
            values = part[name][()]
            del part[name]
            if kind == "soft":
                part[name] = h5py.SoftLink(("/", f"{part.name}/{name}", "/gone")[number % 3])
            elif kind == "external":
                part[name] = h5py.ExternalLink(str(path), "/")
            elif kind == "shape":
                part[name] = values.reshape(-1)[:number] if number % 2 else values[None]
            elif kind == "type":
                part[name] = values.astype(("<f8", "<c8", "S4", ">i2", "?")[number % 5])
            elif kind == "values":
                flat = values.reshape(-1)
                flat[number % len(flat)] = (
                    (0, -1, np.nan, np.inf)[number % 4] if (values.dtype.kind == "f") else 255
                )
                part[name] = values
            elif kind == "group":
                part.create_group(name)
            elif kind == "huge":
                part.create_dataset(name, (2**50, 8), values.dtype, chunks=(1, 8))

    def check(case: tuple[str, str, int, bytes, bytes]) -> None:
        kind, name, number, text, damaged = case
        path.write_bytes(damaged if kind == "bytes" else whole)
        if kind != "bytes":
            change(kind, name, number, text)
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
        value_or_named_error(lambda: import_store(path, tmp_path / "other", silent), path)

    fuzz(
        st.tuples(
            st.sampled_from(KINDS),
            st.sampled_from(NAMES),
            st.integers(0, 50),
            damaged_json(attribute),
            damaged_bytes(whole),
        ),
        check,
        cost=4,
    )
