"""Export of a store to HDF5, Parquet, safetensors or npy: frames or means, with ids and labels.

HDF5 holds a whole store and can be imported again. In the other formats each clip is written once,
in its newest version, as floats: int8 frames are dequantized.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rellm_cache.cache_admin.maintenance import export_to_file
from rellm_cache.corpus.array_files import (
    ArrayColumn,
    ArrayFormat,
    ArrayTable,
    labels_of,
    require_array_output,
    write_arrays,
)
from rellm_cache.corpus.manifest import read_manifests
from rellm_cache.errors import ConfigError
from rellm_cache.store.reader import FeatureStore
from rellm_cache.utils.console import progress

READ_AHEAD = 64  # clips
FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True)
class ExportOptions:
    """What is written of a store.

    Attributes:
        mean: one mean vector an utterance, float32, in place of its frames.
        manifest: write its utterances alone, in its order, with their labels; None for all clips.
        layers: numbers of layers, of a store of several; empty for all.
    """

    mean: bool = False
    manifest: Path | None = None
    layers: tuple[int, ...] = ()


WHOLE_STORE = ExportOptions()


def export(
    store: Path,
    out: Path,
    kind: Literal["hdf5"] | ArrayFormat,
    options: ExportOptions = WHOLE_STORE,
) -> int:
    """Write a store to a file, or for npy to a folder; return the number of its rows.

    Raises:
        ConfigError: HDF5 is asked for less than a whole store, `out` has the ending of another
            format, or the library for the format is not installed.
        StoreError, ManifestError, RellmError: as `export_arrays`.
    """
    require_array_output(out, kind)
    if kind != "hdf5":
        return export_arrays(store, out, kind, options)
    if options != WHOLE_STORE:
        raise ConfigError(
            f"{out}: an HDF5 file holds a whole store; choose --format parquet, safetensors or npy "
            "for means, some layers or the clips of a manifest"
        )
    return export_to_file(store, out)


def export_arrays(path: Path, out: Path, kind: ArrayFormat, options: ExportOptions) -> int:
    """Write frames or means of a store to an array file; return the number of utterances.

    Frames keep the type in which they are stored, float16 or a teacher's float32; int8 frames
    become float32. Their checksums are compared.

    Raises:
        StoreError: the store is damaged, or lacks a layer or an utterance of the manifest.
        ManifestError: the manifest cannot be read.
        RellmError: `out` exists, or cannot be written.
        ConfigError: the library for the format is not installed.
    """
    require_array_output(out, kind)
    store = FeatureStore(path, layers=options.layers or None)
    labels: list[dict[str, Any]]
    if options.manifest is None:
        labels = [{"id": name} for name in store.ids]
    else:
        labels = [labels_of(u) for u in read_manifests(options.manifest)]
        store.require([own["id"] for own in labels], store.spec.command)
    ids = [own["id"] for own in labels]
    with progress("Exporting", len(ids), "utterances") as tick:

        def rows() -> Iterator[Sequence[np.ndarray]]:
            for place, name in enumerate(ids):
                if place % READ_AHEAD == 0:
                    store.read_ahead(ids[place : place + READ_AHEAD])
                yield _arrays(store, name, options.mean)
                tick()

        write_arrays(
            out,
            kind,
            ArrayTable(
                labels=labels,
                columns=_columns(store, options.mean),
                lengths=store.lengths(ids),
                rows=rows(),
                about={
                    "encoder": store.spec.to_json(),
                    "fingerprint": store.spec.fingerprint,
                    "licence": store.licence,
                },
            ),
        )
    return len(ids)


def _columns(store: FeatureStore, mean: bool) -> list[ArrayColumn]:
    """A column of the store, or one of each layer."""
    dtype = FLOAT32 if mean or store.quantization is not None else store.dtype
    name = "mean" if mean else "frames"
    layers = store.spec.layer_numbers
    names = [f"{name}_layer_{'last' if n == -1 else n}" for n in layers] or [name]
    return [ArrayColumn(one, store.frame_size, dtype, not mean) for one in names]


def _arrays(store: FeatureStore, name: str, mean: bool) -> list[np.ndarray]:
    """Frames (L, D) of each layer, or their means (D,)."""
    layers: Sequence[np.ndarray] = store.layer_frames(name)
    if (steps := store.quantization) is not None:
        frames = steps.dequantize(store.frames(name))  # (L, D), or (L, K, D) of K layers
        layers = [frames] if frames.ndim == 2 else [*frames.swapaxes(0, 1)]  # K times (L, D)
    if not mean:
        return [*layers]
    return [frames.mean(axis=0, dtype=np.float64).astype(np.float32) for frames in layers]
