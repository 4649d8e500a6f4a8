"""Registry of adapters by kind."""

from collections.abc import Callable

from rellm_cache.config.schema import AdapterConfig
from rellm_cache.errors import ConfigError
from rellm_cache.model.adapter import Adapter, ConvAdapter

ADAPTERS: dict[str, type[Adapter]] = {"conv": ConvAdapter}


def register_adapter(kind: str) -> Callable[[type[Adapter]], type[Adapter]]:
    """Class decorator that makes an adapter available as `[adapter] kind`."""

    def register(adapter: type[Adapter]) -> type[Adapter]:
        if kind in ADAPTERS:
            raise ValueError(f"an adapter of kind {kind!r} is registered already")
        ADAPTERS[kind] = adapter
        return adapter

    return register


def build_adapter(config: AdapterConfig, input_size: int, output_size: int) -> Adapter:
    """Build a recipe's adapter with random weights; `ConfigError` if its kind is unknown."""
    if config.kind not in ADAPTERS:
        raise ConfigError(
            f"adapter.kind = {config.kind!r}: no such adapter; expected one of "
            f"{', '.join(ADAPTERS)}, or import the package that registers it"
        )
    return ADAPTERS[config.kind](config, input_size, output_size)
