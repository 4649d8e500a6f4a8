"""Registry of adapters by kind."""

from collections.abc import Callable
from typing import Any, TypeVar

from rellm_cache.config.plugins import ADAPTERS
from rellm_cache.config.schema import AdapterConfig
from rellm_cache.model.adapter import Adapter

Kind = TypeVar("Kind", bound=type[Adapter])


def register_adapter(kind: str, *, options: type[Any] | None = None) -> Callable[[Kind], Kind]:
    """Class decorator that makes an adapter available as `[adapter] kind`.

    Args:
        options: frozen dataclass of `[adapter.options]`, which the adapter gets; without it the
            adapter gets the recipe's `AdapterConfig`.

    Raises:
        ValueError: the name is taken or not allowed.

    Example:
        >>> import torch
        >>> import rellm_cache as rellm
        >>> @rellm.register_adapter("every-eighth")
        ... class EveryEighth(rellm.Adapter):
        ...     def __init__(self, options, input_size, output_size):
        ...         super().__init__(options, input_size, output_size)
        ...         self.linear = torch.nn.Linear(input_size, output_size)
        ...     def output_lengths(self, lengths):
        ...         return (lengths - 1) // 8 + 1
        ...     def forward(self, frames, lengths):
        ...         return self.linear(frames[:, ::8]), self.output_lengths(lengths)
        >>> rellm.load_recipe("small", set={"adapter.kind": "every-eighth"}).adapter.kind
        'every-eighth'
    """

    def register(adapter: Kind) -> Kind:
        ADAPTERS.register(kind, adapter, options, adapter.__module__)
        return adapter

    return register


def build_adapter(config: AdapterConfig, input_size: int, output_size: int) -> Adapter:
    """Build a recipe's adapter with random weights."""
    plugin = config.plugin
    options = plugin.build_options(config.options, "adapter.options") or config
    adapter: Adapter = plugin.loaded(options, input_size, output_size)
    return adapter
