"""Specs: the identity of cached frames, teacher rows and transcripts.

A spec holds the settings of a model. Its fingerprint is the SHA-256 of the settings that change
the model's output. Files keep specs as JSON; docs/cache-format.md describes it.
"""

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, cast

from rellm_cache.config.constraints import Count, Range, check_fields
from rellm_cache.config.plugins import ENCODERS
from rellm_cache.config.toml import DERIVED, default_of
from rellm_cache.errors import ConfigError

# Fields that JSON names differently. These names enter fingerprints, so they never change.
_JSON_KEYS = {"weights_sha256": "weights"}
_FIELDS = {key: name for name, key in _JSON_KEYS.items()}


class CachedSpec(ABC):
    """The identity of cached data: fingerprint, folder name, comparison, JSON.

    The fields in `always` are those of rellm 0.1: always in the JSON and in the fingerprint. A
    later field is included only if it differs from its default, so that a new field changes no
    existing fingerprint. Never add to `always`.
    """

    command: ClassVar[str]  # command that makes the data
    always: ClassVar[tuple[str, ...]]
    kind: str
    model: str
    weights_sha256: str

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the fields that change the data.

        The model's path or hub id is left out if its weights are known.
        """
        identity = self.to_json()
        for item in dataclasses.fields(cast("Any", self)):
            if not item.compare:
                identity.pop(item.name, None)
        if self.weights_sha256:
            del identity["model"]
        return digest(identity)

    @property
    @abstractmethod
    def slug(self) -> str:
        """A short folder-safe name."""

    def to_json(self) -> dict[str, Any]:
        """Return the spec as JSON: `always`, and later fields that differ from their default."""
        return {
            _JSON_KEYS.get(field.name, field.name): value
            for field, value in self._values()
            if field.name in self.always or value != default_of(field)
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Return the spec from a file's JSON. A missing key gets its default.

        Raises `ConfigError` if a key is unknown, or missing and without a default.
        """
        table = {_FIELDS.get(key, key): value for key, value in stored.items()}
        fields = dataclasses.fields(cast("Any", cls))
        if unknown := sorted(table.keys() - {field.name for field in fields}):
            raise ConfigError(
                f"unknown key {unknown[0]!r}, which a newer version of rellm wrote; read it with "
                "that version"
            )
        for item in fields:
            if default_of(item) is dataclasses.MISSING and item.name not in table:
                raise ConfigError(f"key {_JSON_KEYS.get(item.name, item.name)!r} is missing")
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in table.items()})

    def differences(self, other: "CachedSpec") -> list[str]:
        """Fields in which another spec differs from this one, as readable text.

        Weights are compared where this spec pins them, else the model's name; the frame rate where
        it is known before the model is.
        """
        return self._differences(other)

    def unmet_by(self, other: "CachedSpec") -> list[str]:
        """Why data of another spec cannot be read as data of this one, as readable text."""
        return self.differences(other)

    def _differences(self, other: "CachedSpec", *left_out: str) -> list[str]:
        if self.kind != other.kind:
            return [f"kind: wanted {self.kind!r}, found {other.kind!r}"]
        ignored = {"model" if self.weights_sha256 else "weights_sha256", *left_out}
        if not getattr(self, "frame_rate", 0.0):
            ignored.add("frame_rate")
        return [
            f"{field.name}: wanted {mine!r}, found {theirs!r}"
            for field, mine in self._values()
            if field.name not in ignored
            and field.compare
            and mine != (theirs := getattr(other, field.name, default_of(field)))
        ]

    def _values(self) -> list[tuple[dataclasses.Field[Any], Any]]:
        """Each field with its value."""
        fields = dataclasses.fields(cast("Any", self))
        return [(field, getattr(self, field.name)) for field in fields]


class StoredSpec(CachedSpec):
    """The spec of a feature store.

    Attributes:
        dtype: type of its values.
        frame_rate: frames a second; 0 where they are no frames of audio.
    """

    dtype: str
    frame_rate: float = 0.0

    @property
    def layer_numbers(self) -> tuple[int, ...]:
        """Layers that its frames hold side by side; empty if there is one frame of one layer."""
        return ()


@dataclass(frozen=True)
class EncoderSpec(StoredSpec):
    """The settings of an encoder that determine its frames; device and batch size do not."""

    command: ClassVar[str] = "rellm extract"
    always: ClassVar[tuple[str, ...]] = (
        "kind", "model", "weights_sha256", "layer", "sampling_rate", "window", "normalisation",
        "dtype", "version",
    )  # fmt: skip

    kind: str
    """Which encoder: `"whisper"`, `"transformers-audio"`, `"wav2vec2-emotion"`, `"prosody"`, or a
    plug-in's. See *Other audio encoders*."""
    model: str = ""
    """Hub id or local folder. `"prosody"` has no weights and takes none."""
    weights_sha256: str = ""
    """SHA-256 over the model's files, as 64 hex digits: a pin. Empty takes any weights of that
    model. See *Weights and pins*."""
    layer: Annotated[int, Range(-1)] = -1
    """Which hidden state the frames are: 0 is the input of the first block, k the output of block
    k, -1 the last one, after the final layer norm where there is one. `"prosody"` has no layers;
    leave it at -1."""
    layers: Annotated[tuple[int, ...] | Literal["all"], Range(-1)] = ()
    """Several hidden states in place of `layer`, from one forward pass and in one store: two or
    more numbers as `layer` has them, ascending, -1 last, as `[1, 2, 3]`. `"all"` is 0 to the number
    of blocks. Only -1 has the final layer norm. Each frame then holds the values of all layers, one
    layer after the other. `"prosody"` has no layers."""
    sampling_rate: Annotated[int, Range(16_000, 16_000)] = 16_000
    """Sampling rate of the waveform that the encoder takes, in Hz. Only 16000 is known; clips with
    other rates are resampled."""
    window: str = ""
    """How much the encoder takes at once. `"whisper"` knows `"30s"`, the default, and `"clip"`: see
    *Whisper's window*. The others know `"clip"` alone."""
    normalisation: str = ""
    """What is done to the waveform or features before the first layer. Empty fills in the only
    value that each kind knows: `"log-mel"` for `"whisper"`, `"preprocessor"` (as in the model's
    `preprocessor_config.json`) for `"transformers-audio"`, `"zero-mean-unit-variance"` for
    `"wav2vec2-emotion"`, `"fixed-scale"` for `"prosody"`."""
    dtype: Literal["float16", "int8"] = "float16"
    """Type of stored frames. `extract` makes float16; `rellm cache quantize` makes an int8 store
    from it, of half the size. The two are never mixed."""
    version: Count = 1
    """Version of our encoding code. It is raised when the same model would give other frames; leave
    it out."""
    frame_rate: float = field(default=50.0, metadata=DERIVED)
    """Frames a second; 0 where it depends on a model that was not looked at yet."""
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    """Options of a plug-in's encoder: the table `[encoders.NAME.options]`."""
    provider: str = field(default="", compare=False, metadata=DERIVED)
    """Package and version that provided the encoder; empty for ours. Not part of the identity."""
    blocks: int = field(default=0, compare=False, metadata=DERIVED)
    """Number of the model's blocks, so that a store tells whether it has all layers; 0 if unknown.
    Not part of the identity."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", _with_tuples(self.options))
        traits = ENCODERS.traits(self.kind)
        object.__setattr__(self, "window", self.window or traits.windows[0])
        object.__setattr__(self, "normalisation", self.normalisation or traits.normalisations[0])
        check_fields(f"encoder {self.kind!r}", self)
        self._check_layers()

    def _check_layers(self) -> None:
        """Raise `ConfigError` unless `layers` is empty, "all", or two or more in order."""
        where = f"encoder {self.kind!r}"
        if self.layers and self.layer != -1:
            raise ConfigError(
                f"{where}: found layer = {self.layer} and layers = {_shown(self.layers)}, expected "
                "one of them; leave the other out"
            )
        if not self.layers or isinstance(self.layers, str):
            return
        if len(self.layers) == 1:
            raise ConfigError(
                f"{where}: layers = {_shown(self.layers)}: expected two or more; for one, write "
                f"layer = {self.layers[0]}"
            )
        if self.layers != in_order(self.layers):
            raise ConfigError(
                f"{where}: layers = {_shown(self.layers)}: expected ascending numbers, 0 or more, "
                f"each once, and -1 last: {_shown(in_order(self.layers))}"
            )

    @property
    def layer_numbers(self) -> tuple[int, ...]:
        """Layers that its frames hold side by side; empty for one layer, `layer`.

        Raises `ConfigError` for `layers = "all"`, which `resolve` replaces by numbers.
        """
        if isinstance(self.layers, str):
            raise ConfigError(f'encoder {self.kind!r}: layers = "all" is not resolved yet')
        return self.layers

    def with_layers(self, layers: tuple[int, ...]) -> Self:
        """The same encoder with other layers, one or several."""
        if len(layers) == 1:
            return dataclasses.replace(self, layer=layers[0], layers=(), blocks=0)
        return dataclasses.replace(self, layer=-1, layers=layers)

    def layers_within(self, other: "CachedSpec") -> tuple[int, ...] | None:
        """The layers to read from frames of `other` to get these frames; None if it lacks some.

        Only layers are compared; `differences` compares the other settings. "all" needs to be told
        the number of blocks by one of both.
        """
        if not isinstance(other, EncoderSpec) or other.layers == "all":
            return None
        held = other.layer_numbers or (other.layer,)
        if self.layers == "all":
            if not (blocks := self.blocks or other.blocks):
                return None
            wanted = tuple(range(blocks + 1))
        else:
            wanted = self.layer_numbers or (self.layer,)
        return wanted if set(wanted) <= set(held) else None

    def differences(self, other: CachedSpec) -> list[str]:
        """Fields in which another spec differs from this one, as readable text.

        "all" is equal to the numbers that it was resolved to.
        """
        if isinstance(other, EncoderSpec) and "all" in (self.layers, other.layers):
            numbers = [s.layers for s in (self, other) if s.layers != "all"]
            if all(n and n == tuple(range(len(n))) for n in numbers):
                return self._differences(other, "layers")
        return self._differences(other)

    def unmet_by(self, other: CachedSpec) -> list[str]:
        """As `differences`, but frames of more layers can be read as frames of some of them."""
        if not isinstance(other, EncoderSpec) or self.kind != other.kind:
            return self._differences(other)
        found = self._differences(other, "layer", "layers")
        if self.layers_within(other) is None:
            field = "layers" if self.layers or other.layers else "layer"
            wanted, held = (layers_text(s.layers or (s.layer,)) for s in (self, other))
            found.append(f"{field}: wanted {wanted}, found {held}")
        return found

    @property
    def slug(self) -> str:
        """A short folder-safe name, as in `whisper-tiny.en-last` or `whisper-tiny.en-layers0-4`."""
        name: str = self.kind
        if self.model:
            layer = "last" if self.layer == -1 else f"layer{self.layer}"
            if self.layers:
                runs = layers_text(self.layers).replace(", ", "+").replace("-1", "last")
                layer = f"layers{runs}"
            name = f"{Path(self.model).name.lower()}-{layer}"
        return name if self.dtype == "float16" else f"{name}-{self.dtype}"


@dataclass(frozen=True)
class TeacherSpec(StoredSpec):
    """The settings of a text LLM that determine its stored distributions (for distillation).

    A frame of its store is a row of `llm.teacher_distribution`, one for each response token.
    """

    command: ClassVar[str] = "rellm respond --teacher"
    always: ClassVar[tuple[str, ...]] = (
        "model", "weights_sha256", "quantization", "template", "system", "prompt", "top_k",
        "temperature", "kind", "dtype", "version",
    )  # fmt: skip

    model: str  # hub id or local folder
    weights_sha256: str  # over the model's files
    quantization: str  # as in a recipe's `[llm]`, like `template`
    template: str
    system: str  # text of the request, with its placeholders, like `prompt`
    prompt: str
    top_k: int  # K, number of tokens that have their own probability
    temperature: float  # divides the logits
    kind: Literal["teacher"] = "teacher"
    dtype: Literal["float32"] = "float32"
    version: int = 1  # of our own code: raised when the same model would give other rows

    @property
    def slug(self) -> str:
        """A short folder-safe name, as in `smollm2-135m-instruct-teacher`."""
        return f"{Path(self.model).name.lower()}-teacher"

    @property
    def frame_size(self) -> int:
        """Values of a row: ids and log-probabilities of K tokens, and one for the rest."""
        return 2 * self.top_k + 1


@dataclass(frozen=True)
class TranscriberSpec(CachedSpec):
    """The settings of a Whisper model that determine its transcripts. It decodes greedily."""

    command: ClassVar[str] = "rellm transcribe"
    always: ClassVar[tuple[str, ...]] = (
        "model", "kind", "weights_sha256", "language", "max_tokens", "version",
    )  # fmt: skip

    model: str
    """Hub id or local folder, with decoder, `tokenizer.json`, `generation_config.json` and
    `preprocessor_config.json`."""
    kind: Literal["whisper"] = "whisper"
    """The only one."""
    weights_sha256: str = ""
    """SHA-256 over the model's files, as 64 hex digits: a pin. It covers the tokenizer and the
    generation config, so it is not that of an encoder from the same folder."""
    language: str = "en"
    """Language of the clips, as Whisper abbreviates it. An English-only model is given no language
    and takes `"en"` alone; others are told it, and to transcribe."""
    max_tokens: Count = 224
    """A transcript ends there at the latest, and is marked as cut. Whisper's own limit is 224."""
    version: Count = 1
    """Version of our own code. It is raised when the same model would give other texts; leave it
    out."""

    def __post_init__(self) -> None:
        if not self.model:
            raise ConfigError('transcriber.model = "": expected a hub id or a local folder')
        check_fields("transcriber", self)

    @property
    def slug(self) -> str:
        """A short folder-safe name, as in `whisper-tiny.en`."""
        return Path(self.model).name.lower()


def in_order(layers: tuple[int, ...]) -> tuple[int, ...]:
    """Layers ascending and each once, -1 last."""
    return tuple(sorted(set(layers), key=lambda layer: (layer < 0, layer)))


def layers_text(layers: tuple[int, ...] | str) -> str:
    """Layers as text with runs joined, as in "0-4, -1"; "all" stays as it is."""
    if isinstance(layers, str):
        return layers
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _shown(layers: tuple[int, ...] | str) -> str:
    return repr(layers) if isinstance(layers, str) else str(list(layers))


def _with_tuples(value: Any) -> Any:
    """A JSON or TOML value with tuples in place of lists."""
    if isinstance(value, dict):
        return {key: _with_tuples(inner) for key, inner in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list | tuple) else value


def digest(value: object) -> str:
    """SHA-256 (hex) of a JSON value in canonical form: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
