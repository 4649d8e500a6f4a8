"""Utterance vectors: mean and standard deviation over time of each layer's frames in the cache.

Probed are, for each stream of a recipe, all layers of all stores of its encoder in the cache. A
layer that two stores hold is read from the one with more clips.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rellm_cache.config.schema import EncoderConfig
from rellm_cache.config.specs import EncoderSpec, in_order
from rellm_cache.errors import StoreError
from rellm_cache.store.format import list_stores, read_info
from rellm_cache.store.matching import find_store
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.remote.mirror_paths import display_path
from rellm_cache.utils.console import progress

LEAST_SHARE = 0.9  # of the clips that the fullest store has


@dataclass(frozen=True)
class LayerStore:
    """A layer of a recipe's stream, and the store to read it from."""

    stream: str
    store: FeatureStore

    @property
    def name(self) -> str:
        """Encoder and layer, as in `whisper-tiny.en-layer2`."""
        return self.store.spec.slug

    def vector(self, utterance_id: str) -> NDArray[np.float32]:
        """(2 D,) means, then standard deviations of a clip's frames over time."""
        stored = self.store.frames(utterance_id)  # (L, D)
        quantization = self.store.quantization
        frames = stored if quantization is None else quantization.dequantize(stored)
        mean = frames.mean(axis=0, dtype=np.float64)
        deviation = frames.std(axis=0, dtype=np.float64)
        return np.concatenate([mean, deviation]).astype(np.float32)


@dataclass(frozen=True)
class UtteranceVectors:
    """Vectors of clips from one layer, or from several together.

    Attributes:
        stream: of the recipe; empty for several together.
        values: (N, 2 D) float32.
    """

    stream: str
    name: str
    values: NDArray[np.float32]


def find_layers(encoders: Mapping[str, EncoderConfig], cache: Path) -> list[LayerStore]:
    """Stores of all layers of the encoder of each stream, by stream and layer.

    Raises:
        StoreError: a stream has no store, or stores of different weights.
    """
    found = []
    for stream, encoder in encoders.items():
        stores = _stores_of(encoder.spec, cache)
        if not stores:
            find_store(cache, encoder)  # tells what is there instead
        if len(weights := {spec.weights_sha256 for spec in stores.values()}) > 1:
            raise StoreError(
                f"{display_path(cache)}: stores hold {encoder.kind} {encoder.model} with "
                f"{len(weights)} different weights; pin one as encoders.{stream}.weights_sha256: "
                f"{', '.join(sorted(weights))}"
            )
        fullest: dict[int, FeatureStore] = {}
        for path, spec in stores.items():
            store = FeatureStore(path)
            for layer in spec.layer_numbers or (spec.layer,):
                if layer not in fullest or len(store) > len(fullest[layer]):
                    fullest[layer] = store.select((layer,))
        found += [LayerStore(stream, fullest[layer]) for layer in in_order(tuple(fullest))]
    return found


def _stores_of(wanted: EncoderSpec, cache: Path) -> dict[Path, EncoderSpec]:
    """Stores that differ from a spec in nothing but the layers."""
    specs = {path: read_info(path).spec for path in list_stores(cache)}
    return {
        path: spec
        for path, spec in specs.items()
        if isinstance(spec, EncoderSpec)
        and not wanted.with_layers((-1,)).differences(spec.with_layers((-1,)))
    }


def shared_clips(
    layers: Sequence[LayerStore], ids: Sequence[str]
) -> tuple[list[LayerStore], list[str], list[str]]:
    """Layers to probe, the ids that all of them hold, and notes of what was left out.

    A store with less than nine tenths of the clips of the fullest one is left out.
    """
    held = [sum(i in layer.store.ids for i in ids) for layer in layers]
    notes, kept = [], []
    for layer, count in zip(layers, held, strict=True):
        if count < LEAST_SHARE * max(held):
            notes.append(
                f"{layer.name} is left out: it has {count} of {max(held)} clips; run "
                "`rellm extract` with its layer for the others"
            )
        else:
            kept.append(layer)
    shared = [i for i in ids if all(i in layer.store.ids for layer in kept)]
    if not shared:
        raise StoreError(
            f"found none of the manifest's {len(ids)} clips in {kept[0].name} and the other stores "
            "of the recipe; run `rellm extract` with this manifest"
        )
    if len(shared) < len(ids):
        notes.append(f"{len(ids) - len(shared)} of {len(ids)} clips are not in every store")
    return kept, shared, notes


def read_vectors(layers: Sequence[LayerStore], ids: Sequence[str]) -> list[UtteranceVectors]:
    """Vectors of clips from each layer, and from all together if there are several."""
    found = []
    with progress("Reading frames", len(layers) * len(ids), "clips") as tick:
        for layer in layers:
            layer.store.read_ahead(ids)
            rows = []
            for utterance_id in ids:
                rows.append(layer.vector(utterance_id))
                tick()
            found.append(UtteranceVectors(layer.stream, layer.name, np.stack(rows)))
    if len(found) > 1:
        together = np.concatenate([vectors.values for vectors in found], axis=1)
        found.append(UtteranceVectors("", "all together", together))
    return found
