"""Plug-ins: registries of encoders, adapters, losses and corpora by name.

A part is registered by a decorator (`register_encoder` and its siblings) or found by an entry point
of an installed package, which is imported when its name is asked for. Parts of rellm are declared
below as "module:name", so that reading a recipe imports neither torch nor their modules.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from rellm_cache.config.adapter_options import StatisticsOptions
from rellm_cache.config.constraints import check_fields
from rellm_cache.config.toml import build, to_table
from rellm_cache.errors import ConfigError

NAME = re.compile(r"[A-Za-z0-9_-]+")  # of streams and plug-ins


class PluginError(ConfigError, ValueError):
    """A part cannot be registered: its name is taken or not allowed, or its options are wrong."""


@dataclass(frozen=True)
class EncoderTraits:
    """What a recipe must know of an encoder: the class attributes of `FrameEncoder`."""

    frame_rate: float = 50.0  # 0 where it depends on the model
    version: int = 1
    needs_model: bool = True
    model_files: tuple[str, ...] = ("preprocessor_config.json",)
    windows: tuple[str, ...] = ("clip",)
    normalisations: tuple[str, ...] = ("none",)
    gives_dimensions: bool = False
    several_layers: bool = False
    pickled_weights: bool = False


@dataclass(frozen=True)
class AdapterTraits:
    """What a recipe must know of an adapter: whether it has a size where none is given."""

    has_own_size: bool = False


@dataclass(frozen=True)
class Plugin:
    """A part by its name.

    Attributes:
        part: class, function or other object, or "module:name" of one of ours.
        options: frozen dataclass of its options; None if it has none.
        provider: "" for ours, "package version", or "module NAME" if only this process has it.
        traits: what a recipe must know of it: `EncoderTraits`, `AdapterTraits` (None for a
            plug-in), or the task of a loss.
    """

    name: str
    part: Any
    options: type[Any] | None = None
    provider: str = ""
    traits: Any = None

    @cached_property
    def loaded(self) -> Any:
        """The part itself."""
        return EntryPoint("", self.part, "").load() if isinstance(self.part, str) else self.part

    @property
    def module(self) -> str:
        """Name of the module that the part is in."""
        if isinstance(self.part, str):
            return self.part.partition(":")[0]
        return str(self.part.__module__)

    def build_options(self, given: Mapping[str, Any], where: str) -> Any:
        """The options as their dataclass, None if there are none; `ConfigError` names `where`."""
        if self.options is None:
            if given:
                raise ConfigError(f"{where}: {self.name!r} has no options; leave them out")
            return None
        built = build(self.options, given, where)
        check_fields(where, built)
        return built

    def complete(self, given: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The options with all defaults, checked, as a table of a recipe."""
        built = self.build_options(given, where)
        table = {} if built is None else to_table(built)
        return {key: "none" if value is None else value for key, value in table.items()}


class Registry:
    """Parts of one kind by name.

    Args:
        noun: what a part is, for messages and the keys of a recipe's `[plugins]`.
        group: entry-point group in which packages offer parts.
    """

    def __init__(self, noun: str, group: str, *ours: Plugin) -> None:
        self.noun, self.group = noun, group
        self._plugins = {plugin.name: plugin for plugin in ours}

    def register(
        self, name: str, part: Any, options: type[Any] | None, module: str, traits: Any = None
    ) -> None:
        """Add a part.

        Args:
            module: in which the part is defined.

        Raises:
            PluginError: the name has other characters than letters, digits, - and _, it is taken,
                or `options` is no frozen dataclass.
        """
        if not NAME.fullmatch(name):
            raise PluginError(f"{self.noun} {name!r}: expected letters, digits, - and _")
        if name in self._plugins:
            taken = self._plugins[name].provider or "rellm"
            raise PluginError(
                f"{self.noun} {name!r} is registered already, by {taken}; choose another name"
            )
        settings = getattr(options, "__dataclass_params__", None)
        if options is not None and not (settings and settings.frozen):
            raise PluginError(f"{self.noun} {name!r}: options: expected a frozen dataclass")
        self._plugins[name] = Plugin(name, part, options, self._provider(name, module), traits)

    def names(self) -> list[str]:
        """Names of ours and registered parts, then those that installed packages offer."""
        offered = sorted(point.name for point in entry_points(group=self.group))
        return list(dict.fromkeys([*self._plugins, *offered]))

    def find(
        self, name: str, where: str, recorded: str = "", others: tuple[str, ...] = ()
    ) -> Plugin:
        """Return a part, importing its package if an entry point names it.

        Args:
            where: key of the recipe that names it, for messages.
            recorded: the provider that a run or a store records.
            others: further names that are allowed at `where`, for messages.

        Raises:
            ConfigError: nothing provides it, two packages do, or its package cannot be imported.
        """
        if name not in self._plugins:
            self._import(name, where)
        if name in self._plugins:
            return self._plugins[name]
        message = f"{where}: no {self.noun} is named {name!r}"
        if recorded.startswith("module "):
            raise ConfigError(f"{message}; {recorded} registered it: import that module first")
        if recorded:
            package = recorded.partition(" ")[0]
            raise ConfigError(f"{message}; {recorded} provided it: pip install {package}")
        known = list(dict.fromkeys([*others, *self.names()]))
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}."
        raise ConfigError(
            f"{message}; {hint} A package offers others by entry points in the group {self.group!r}"
        )

    def traits(self, name: str) -> Any:
        """Traits of a part that needs no import, else the default traits."""
        known = self._plugins.get(name)
        return EncoderTraits() if known is None else known.traits

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Context after which the parts registered within are gone, for tests.

        Import `rellm_cache.model.losses` before it: our losses are registered only once.
        """
        before = dict(self._plugins)
        try:
            yield
        finally:
            self._plugins = before

    def _import(self, name: str, where: str) -> None:
        """Import the entry point of a name, if there is one; its decorator registers the part."""
        points = {_provider(p): p for p in entry_points(group=self.group, name=name)}
        if len(points) > 1:
            raise ConfigError(
                f"{where}: {self.noun} {name!r} is provided by {' and by '.join(points)}; "
                "uninstall all but one"
            )
        for provider, point in points.items():
            failed = f"{where}: entry point {point.value!r} of {provider}"
            try:
                point.load()
            except Exception as error:  # whatever a foreign module raises
                raise ConfigError(f"{failed} fails: {type(error).__name__}: {error}") from error
            if name not in self._plugins:
                raise ConfigError(
                    f"{failed} registers no {self.noun} named {name!r}; use the decorator "
                    f"register_{self.noun} with this name"
                )

    def _provider(self, name: str, module: str) -> str:
        own = module.partition(".")[0]
        if own == __name__.partition(".")[0]:
            return ""
        for point in entry_points(group=self.group, name=name):
            if point.module.partition(".")[0] == own:
                return _provider(point)
        return f"module {module}"


def _provider(point: EntryPoint) -> str:
    """Distribution and version of an entry point."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else f"module {point.module}"


def _encoder(kind: str, part: str, **traits: Any) -> Plugin:
    return Plugin(kind, f"rellm_cache.encoders.{part}", traits=EncoderTraits(**traits))


ENCODERS = Registry(
    "encoder",
    "rellm.encoders",
    _encoder(
        "whisper",
        "whisper:WhisperEncoder",
        windows=("30s", "clip"),
        normalisations=("log-mel",),
        several_layers=True,
    ),
    _encoder(
        "wav2vec2-emotion",
        "wav2vec2_emotion:Wav2Vec2EmotionEncoder",
        normalisations=("zero-mean-unit-variance",),
        gives_dimensions=True,
        several_layers=True,
    ),
    _encoder(
        "transformers-audio",
        "transformers_audio:TransformersAudioEncoder",
        frame_rate=0.0,
        normalisations=("preprocessor",),
        several_layers=True,
        pickled_weights=True,
    ),
    _encoder(
        "prosody", "prosody:ProsodyEncoder", needs_model=False, normalisations=("fixed-scale",)
    ),
)
ADAPTERS = Registry(
    "adapter",
    "rellm.adapters",
    Plugin("conv", "rellm_cache.model.adapter:ConvAdapter"),
    Plugin(
        "statistics",
        "rellm_cache.model.statistics_adapter:StatisticsAdapter",
        StatisticsOptions,
        traits=AdapterTraits(has_own_size=True),
    ),
)
LOSSES = Registry("loss", "rellm.losses")  # ours are registered by rellm_cache.model.losses
CORPORA = Registry("corpus", "rellm.corpora")
REGISTRIES = (ENCODERS, ADAPTERS, LOSSES, CORPORA)
