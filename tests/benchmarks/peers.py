"""Other storage formats for features, each in its best layout: writers and readers.

Every reader copies the utterances of a batch into the same kind of buffers, (16, T, D) for each
stream, which are reused for every batch. A library may read a whole batch at once, or directly into
the buffer, if it can.
"""

from pathlib import Path
from typing import Protocol

import h5py
import numpy as np
import tensorstore
import torch
import webdataset
import zarr
import zarrs
from features import SIZES, Corpus
from lhotse.features.io import NumpyHdf5Reader, NumpyHdf5Writer
from safetensors import safe_open
from safetensors.torch import save_file

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.store.format import StoreInfo, store_path
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.writer import StoreWriter

BATCH = 16
CHUNK = 256
Buffers = dict[str, np.ndarray]


class Peer(Protocol):
    """One way to keep features: open for reading once made."""

    def __init__(self, folder: Path, corpus: Corpus) -> None:
        """Open what `write` left in a folder."""

    @staticmethod
    def write(folder: Path, corpus: Corpus) -> None:
        """Write the whole corpus into an empty folder."""

    def read(self, batch: list[int], out: Buffers) -> list[int]:
        """Copy the utterances of a batch into the rows of both streams' buffers.

        Returns:
            What was read: the batch, or as many others, where a library reads in its own order.
        """


def specs() -> dict[str, EncoderSpec]:
    """An encoder spec for each stream."""
    return {
        "speech": EncoderSpec(kind="whisper", model="made", weights_sha256="1" * 64, layer=32),
        "emotion": EncoderSpec(kind="wav2vec2-emotion", model="made", weights_sha256="2" * 64),
    }


class Rellm:
    """This package's store, mapped."""

    def __init__(self, folder: Path, corpus: Corpus) -> None:
        self.ids = corpus.ids
        self.stores = {s: FeatureStore(store_path(folder, spec)) for s, spec in specs().items()}

    @staticmethod
    def write(folder: Path, corpus: Corpus) -> None:
        digest = np.zeros(32, np.uint8)
        for stream, spec in specs().items():
            with StoreWriter(folder, StoreInfo(spec, SIZES[stream], "made")) as writer:
                for index, key in enumerate(corpus.ids):
                    writer.add(key, digest, corpus.frames(stream, index))

    def read(self, batch: list[int], out: Buffers) -> list[int]:
        ids = self.ids
        for stream, store in self.stores.items():
            buffer = out[stream]
            for row, index in enumerate(batch):
                frames = store.frames(ids[index])
                buffer[row, : len(frames)] = frames
        return batch


class Memmap:
    """One raw file a stream, mapped; where utterances lie is known in memory."""

    def __init__(self, folder: Path, corpus: Corpus) -> None:
        self.offsets = corpus.offsets().tolist()
        self.maps = {
            s: np.asarray(np.memmap(folder / s, np.float16, "r")).reshape(-1, size)
            for s, size in SIZES.items()
        }

    @staticmethod
    def write(folder: Path, corpus: Corpus) -> None:
        for stream in SIZES:
            with (folder / stream).open("wb") as file:
                for index in range(corpus.utterances):
                    file.write(corpus.frames(stream, index))

    def read(self, batch: list[int], out: Buffers) -> list[int]:
        for stream, mapped in self.maps.items():
            buffer = out[stream]
            for row, index in enumerate(batch):
                start, stop = self.offsets[index], self.offsets[index + 1]
                buffer[row, : stop - start] = mapped[start:stop]
        return batch


class Safetensors:
    """One file a stream, a tensor an utterance; torch tensors are views of the mapped file."""

    def __init__(self, folder: Path, corpus: Corpus) -> None:
        self.ids = corpus.ids
        self.files = {
            s: safe_open(folder / f"{s}.safetensors", framework="pt").__enter__() for s in SIZES
        }

    @staticmethod
    def write(folder: Path, corpus: Corpus) -> None:
        for stream in SIZES:
            tensors = {
                key: torch.from_numpy(corpus.frames(stream, index).copy())
                for index, key in enumerate(corpus.ids)
            }
            save_file(tensors, folder / f"{stream}.safetensors")

    def read(self, batch: list[int], out: Buffers) -> list[int]:
        for stream, file in self.files.items():
            buffer = out[stream]
            for row, index in enumerate(batch):
                frames = file.get_tensor(self.ids[index]).numpy()
                buffer[row, : len(frames)] = frames
        return batch


class FlatHdf5:
    """One contiguous array a stream, read straight into the buffer."""

    def __init__(self, folder: Path, corpus: Corpus) -> None:
        self.offsets = corpus.offsets().tolist()
        self.file = h5py.File(folder / "flat.h5", "r")
        self.arrays = {s: self.file[s] for s in SIZES}

    @staticmethod
    def write(folder: Path, corpus: Corpus) -> None:
        offsets = corpus.offsets().tolist()
        with h5py.File(folder / "flat.h5", "w", libver="latest") as file:
            for stream, size in SIZES.items():
                array = file.create_dataset(stream, (offsets[-1], size), np.float16)
                for index in range(corpus.utterances):
                    array[offsets[index] : offsets[index + 1]] = corpus.frames(stream, index)

    def read(self, batch: list[int], out: Buffers) -> list[int]:
        for stream, array in self.arrays.items():
            for row, index in enumerate(batch):
                start, stop = self.offsets[index], self.offsets[index + 1]
                array.read_direct(out[stream], np.s_[start:stop], np.s_[row, : stop - start])
        return batch


class UtteranceHdf5:
    """A contiguous data set an utterance and stream, as most speech toolkits keep them."""

    def __init__(self, folder: Path, corpus: Corpus) -> None:
        self.ids, self.lengths = corpus.ids, corpus.lengths.tolist()
        self.file = h5py.File(folder / "utterances.h5", "r")

    @staticmethod
    def write(folder: Path, corpus: Corpus) -> None:
        with h5py.File(folder / "utterances.h5", "w", libver="latest") as file:
            for index, key in enumerate(corpus.ids):
                for stream in SIZES:
                    file[f"{stream}/{key}"] = corpus.frames(stream, index)

    def read(self, batch: list[int], out: Buffers) -> list[int]:
        for stream in SIZES:
            for row, index in enumerate(batch):
                frames = self.file[f"{stream}/{self.ids[index]}"]
                frames.read_direct(out[stream], None, np.s_[row, : self.lengths[index]])
        return batch


class NpyFiles:
    """A file an utterance and stream."""

    def __init__(self, folder: Path, corpus: Corpus) -> None:
        self.folder, self.lengths = folder, corpus.lengths.tolist()

    @staticmethod
    def write(folder: Path, corpus: Corpus) -> None:
        for stream in SIZES:
            (folder / stream).mkdir()
            for index in range(corpus.utterances):
                np.save(folder / stream / f"{index}.npy", corpus.frames(stream, index))

    def read(self, batch: list[int], out: Buffers) -> list[int]:
        for stream in SIZES:
            for row, index in enumerate(batch):
                frames = np.load(f"{self.folder}/{stream}/{index}.npy")
                out[stream][row, : self.lengths[index]] = frames
        return batch


def write_zarr(folder: Path, corpus: Corpus) -> None:
    """One array a stream, chunks of 256 frames in files of their own, uncompressed."""
    offsets = corpus.offsets().tolist()
    for stream, size in SIZES.items():
        array = zarr.create_array(
            str(folder / stream),
            shape=(offsets[-1], size),
            dtype="float16",
            chunks=(CHUNK, size),
            compressors=None,
            filters=None,
        )
        block: list[np.ndarray] = []
        start = end = 0
        for index in range(corpus.utterances):
            block.append(corpus.frames(stream, index))
            end += len(block[-1])
            last = index == corpus.utterances - 1
            whole = end if last else end // CHUNK * CHUNK
            if whole - start >= 8 * CHUNK or last:
                joined = np.concatenate(block)
                array[start:whole] = joined[: whole - start]
                block, start = [joined[whole - start :]], whole


class Tensorstore:
    """Google's C++ reader over such a Zarr array, all slices of a batch at once."""

    def __init__(self, folder: Path, corpus: Corpus) -> None:
        self.offsets = corpus.offsets().tolist()
        self.arrays = {
            s: tensorstore.open(
                {
                    "driver": "zarr3",
                    "kvstore": {"driver": "file", "path": f"{folder}/{s}/"},
                    "context": {"data_copy_concurrency": {"limit": 2}},
                },
                read=True,
            ).result()
            for s in SIZES
        }

    write = staticmethod(write_zarr)

    def read(self, batch: list[int], out: Buffers) -> list[int]:
        copies = []
        for stream, array in self.arrays.items():
            for row, index in enumerate(batch):
                start, stop = self.offsets[index], self.offsets[index + 1]
                target = tensorstore.array(out[stream][row, : stop - start], copy=False)
                copies.append(target.write(array[start:stop].translate_to[0, 0]))
        for copy in copies:
            copy.result()
        return batch


class ZarrPython:
    """zarr-python over the same array."""

    def __init__(self, folder: Path, corpus: Corpus) -> None:
        self.offsets = corpus.offsets().tolist()
        self.arrays = {s: zarr.open_array(str(folder / s), mode="r") for s in SIZES}

    write = staticmethod(write_zarr)

    def read(self, batch: list[int], out: Buffers) -> list[int]:
        for stream, array in self.arrays.items():
            for row, index in enumerate(batch):
                start, stop = self.offsets[index], self.offsets[index + 1]
                out[stream][row, : stop - start] = array[start:stop]
        return batch


class Zarrs(ZarrPython):
    """zarr-python over the same array, with the codecs of zarrs, which are in Rust."""

    def __init__(self, folder: Path, corpus: Corpus) -> None:
        with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
            super().__init__(folder, corpus)
        for array in self.arrays.values():
            assert isinstance(array.async_array.codec_pipeline, zarrs.ZarrsCodecPipeline)


class LhotseHdf5:
    """lhotse's own HDF5 file for each stream: its `NumpyHdf5Writer` and reader."""

    def __init__(self, folder: Path, corpus: Corpus) -> None:
        self.ids = corpus.ids
        self.readers = {s: NumpyHdf5Reader(folder / f"{s}.h5") for s in SIZES}

    @staticmethod
    def write(folder: Path, corpus: Corpus) -> None:
        for stream in SIZES:
            with NumpyHdf5Writer(folder / stream) as writer:
                for index, key in enumerate(corpus.ids):
                    writer.write(key, corpus.frames(stream, index))

    def read(self, batch: list[int], out: Buffers) -> list[int]:
        for stream, reader in self.readers.items():
            for row, index in enumerate(batch):
                frames = reader.read(self.ids[index])
                out[stream][row, : len(frames)] = frames
        return batch


class WebDatasets:
    """Tar files of 100 utterances, read from end to end and shuffled in a buffer of as many.

    Values lie in them as they are, and are taken without a copy.
    """

    def __init__(self, folder: Path, corpus: Corpus) -> None:
        files = sorted(map(str, folder.glob("*.tar")))
        self.samples = webdataset.WebDataset(files, shardshuffle=len(files), seed=1).shuffle(100)
        self.stream = iter(self.samples)

    @staticmethod
    def write(folder: Path, corpus: Corpus) -> None:
        pattern = f"{folder}/%06d.tar"
        with webdataset.ShardWriter(pattern, maxcount=100, maxsize=1e12, verbose=0) as writer:
            for index in range(corpus.utterances):
                frames = {f"{s}.bin": corpus.frames(s, index).tobytes() for s in SIZES}
                writer.write({"__key__": f"{index:06d}", **frames})

    def read(self, batch: list[int], out: Buffers) -> list[int]:
        taken = []
        for row in range(len(batch)):
            sample = next(self.stream, None)
            if sample is None:  # all were read: once more
                self.stream = iter(self.samples)
                sample = next(self.stream)
            taken.append(int(sample["__key__"]))
            for stream, size in SIZES.items():
                frames = np.frombuffer(sample[f"{stream}.bin"], np.float16).reshape(-1, size)
                out[stream][row, : len(frames)] = frames
        return taken


PEERS: dict[str, type[Peer]] = {
    "rellm": Rellm,
    "memmap": Memmap,
    "safetensors": Safetensors,
    "HDF5, flat": FlatHdf5,
    "HDF5, by utterance": UtteranceHdf5,
    "npy files": NpyFiles,
    "lhotse NumpyHdf5": LhotseHdf5,
    "WebDataset": WebDatasets,
    "tensorstore": Tensorstore,
    "zarrs": Zarrs,
    "zarr-python": ZarrPython,
}
OWN = ("rellm", "memmap")  # what the others are compared with
# Few enough at a time for the page cache to hold their files; the first ones have a figure.
GROUPS = (
    ("safetensors", "HDF5, flat", "tensorstore", "zarrs", "zarr-python"),
    ("HDF5, by utterance", "npy files", "lhotse NumpyHdf5", "WebDataset"),
)
# Peers that read the same files.
FILES = {"tensorstore": "zarr", "zarrs": "zarr", "zarr-python": "zarr"}
