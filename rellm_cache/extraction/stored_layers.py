"""Layers in existing stores: which store an extraction fills for a stream of some layers.

A store of several layers serves every stream that asks for some of them, so that no layer is
encoded and stored twice. A store of exactly the stream's layers is preferred.
"""

from collections.abc import Iterator
from pathlib import Path

from rellm_cache.config.specs import EncoderSpec, layers_text
from rellm_cache.errors import RellmError
from rellm_cache.store.format import list_stores, read_info, store_path
from rellm_cache.store.remote.mirror_paths import display_path
from rellm_cache.utils.console import say


def choose_store(stream: str, spec: EncoderSpec, cache: Path) -> EncoderSpec:
    """The spec of the store to fill for a stream: one with more layers if there is one.

    A message says which store the layers are read from, or which layers the stores lack.

    Args:
        stream: its name, for messages.
        spec: of the stream, weights and layers resolved.
    """
    if store_path(cache, spec).exists():
        return spec
    wanted = spec.layer_numbers or (spec.layer,)
    asked = f"layer{'s' * (len(wanted) > 1)} {layers_text(wanted)}"
    others = [(path, s) for path, s in _encoder_stores(cache) if s.layer_numbers]
    serving = [(path, other) for path, other in others if not spec.unmet_by(other)]
    if serving:
        path, other = min(serving, key=lambda item: len(item[1].layer_numbers))
        held = other.layer_numbers
        say(f"{stream}: {asked} of {display_path(path)}, which has layers {layers_text(held)}")
        return spec.with_layers(held)
    for path, other in others:
        held = other.layer_numbers
        missing = tuple(layer for layer in wanted if layer not in held)
        if len(missing) < len(wanted) and not spec.with_layers(held).unmet_by(other):
            say(
                f"{stream}: {display_path(path)} lacks layer{'s' * (len(missing) > 1)} "
                f"{layers_text(missing)}; a new store gets {asked}"
            )
    return spec


def _encoder_stores(cache: Path) -> Iterator[tuple[Path, EncoderSpec]]:
    """Stores of encoders under a cache root; one that cannot be read is no candidate."""
    for path in list_stores(cache):
        try:
            spec = read_info(path).spec
        except RellmError:
            continue
        if isinstance(spec, EncoderSpec):
            yield path, spec
