"""Registry of encoders by kind: builds the encoder of an `EncoderSpec`."""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from rellm_cache.config.plugins import ENCODERS, EncoderTraits, Plugin
from rellm_cache.config.specs import EncoderSpec
from rellm_cache.encoders.base import FrameEncoder, check_layer
from rellm_cache.errors import ConfigError
from rellm_cache.utils.devices import describe_machine
from rellm_cache.utils.model_files import find_model, pinned_digest

Kind = TypeVar("Kind", bound=type[FrameEncoder])


def register_encoder(kind: str, *, options: type[Any] | None = None) -> Callable[[Kind], Kind]:
    """Class decorator that makes a `FrameEncoder` available as `[encoders.NAME] kind`.

    Args:
        options: frozen dataclass of `[encoders.NAME.options]`; its values are in the fingerprint.

    Raises:
        ValueError: the name is taken or not allowed.

    Example:
        >>> import numpy as np
        >>> import rellm_cache as rellm
        >>> @rellm.register_encoder("loudness")
        ... class Loudness(rellm.FrameEncoder):
        ...     needs_model, frame_size, licence = False, 1, "none"
        ...     def encode(self, waveforms):
        ...         cut = [np.abs(w[: len(w) // 320 * 320]) for w in waveforms]  # 20 ms are 320
        ...         return [rellm.Encoding(w.reshape(-1, 320).mean(1, keepdims=True)) for w in cut]
        >>> changes = {"encoders.emotion.kind": "loudness"}
        >>> rellm.load_recipe("heads", set=changes).encoders["emotion"].frame_rate
        50.0
    """

    def register(encoder: Kind) -> Kind:
        names = [field.name for field in dataclasses.fields(EncoderTraits)]
        traits = EncoderTraits(**{name: getattr(encoder, name) for name in names})
        ENCODERS.register(kind, encoder, options, encoder.__module__, traits)
        return encoder

    return register


def plugin_of(spec: EncoderSpec) -> Plugin:
    """The encoder of a spec; `ConfigError` names the package that provided a missing one."""
    return ENCODERS.find(spec.kind, f"encoder of {spec.slug}", spec.provider)


def resolve(spec: EncoderSpec) -> EncoderSpec:
    """Add the digest of the weights and the model's frame rate to a spec, without loading it.

    The numbers of the layers take the place of `layers = "all"`.

    Raises:
        ConfigError: the model cannot be found, its weights are not those that the spec pins, the
            encoder does not take this model, it lacks a layer of several, or no encoder makes
            frames of this dtype.
    """
    if spec.dtype != "float16":
        raise ConfigError(
            f"encoder {spec.kind!r}: dtype = {spec.dtype!r}, but encoders make float16 frames; run "
            'this with dtype = "float16", then convert that store to int8: '
            "`rellm cache quantize <its folder>`. Training and `generate` from the cache read it"
        )
    if not spec.model:
        if spec.layers == "all":
            raise ConfigError(
                f'encoder {spec.kind!r}: layers = "all", but it has no model that tells their '
                "number; write the numbers of the layers"
            )
        return spec
    plugin = plugin_of(spec)
    traits = plugin.traits
    folder = find_model(spec.model, traits.model_files, pickled=traits.pickled_weights)
    weights = pinned_digest(folder, spec.weights_sha256, pickled=traits.pickled_weights)
    spec = replace(spec, weights_sha256=weights)
    if spec.layers:
        spec = _with_block_count(spec, plugin, folder)
    rate = traits.frame_rate or plugin.loaded.model_frame_rate(spec, folder)
    return replace(spec, frame_rate=rate)


def _with_block_count(spec: EncoderSpec, plugin: Plugin, folder: Path) -> EncoderSpec:
    """A spec of several layers with their numbers and the number of the model's blocks.

    The encoder's own class knows it: the count of a model that does not say it is 0.
    """
    encoder: type[FrameEncoder] = plugin.loaded
    try:
        blocks = encoder.count_blocks(folder)
    except ConfigError:
        if spec.layers == "all":
            raise
        return spec
    layers = tuple(range(blocks + 1)) if spec.layers == "all" else spec.layers
    spec = replace(spec, layers=layers, blocks=blocks)
    check_layer(spec, blocks)
    return spec


def build_encoder(spec: EncoderSpec, device: torch.device) -> FrameEncoder:
    """Load the encoder of a spec.

    Raises:
        ConfigError: nothing provides the encoder, or its model cannot be found, lacks a file, or
            lacks the spec's layer.
    """
    plugin = plugin_of(spec)
    options = plugin.build_options(spec.options, f"options of {spec.slug}")
    encoder: FrameEncoder = plugin.loaded(spec, options, device)
    return encoder


def require_importable(specs: Iterable[EncoderSpec]) -> None:
    """Raise `ConfigError` if other processes cannot build the encoder of a spec."""
    for spec in specs:
        if (provider := plugin_of(spec).provider).startswith("module "):
            raise ConfigError(
                f"encoder {spec.kind!r} is registered by {provider} in this process only, so that "
                "workers cannot build it: extract without workers, or install a package with an "
                f"entry point in the group {ENCODERS.group!r}"
            )


def encoder_module(spec: EncoderSpec) -> str:
    """Name of the module with a spec's encoder; importing it also imports its libraries."""
    return plugin_of(spec).module


def encoding_machine(spec: EncoderSpec, device: torch.device) -> dict[str, str]:
    """Description of the machine that computes the frames of a spec."""
    # Encoders without a model run on the CPU; models run in half precision on a GPU.
    on = device if spec.model else torch.device("cpu")
    return describe_machine(on, torch.float16 if on.type == "cuda" else torch.float32)
