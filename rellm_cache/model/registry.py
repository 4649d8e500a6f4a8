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
