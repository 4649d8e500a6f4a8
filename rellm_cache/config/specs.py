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
        if self.kind != other.kind:
            return [f"kind: wanted {self.kind!r}, found {other.kind!r}"]
        ignored = {"model" if self.weights_sha256 else "weights_sha256"}
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", _with_tuples(self.options))
        traits = ENCODERS.traits(self.kind)
        object.__setattr__(self, "window", self.window or traits.windows[0])
        object.__setattr__(self, "normalisation", self.normalisation or traits.normalisations[0])
        check_fields(f"encoder {self.kind!r}", self)

    @property
    def slug(self) -> str:
        """A short folder-safe name, as in `whisper-tiny.en-last`."""
        name: str = self.kind
        if self.model:
            layer = "last" if self.layer == -1 else f"layer{self.layer}"
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


def _with_tuples(value: Any) -> Any:
    """A JSON or TOML value with tuples in place of lists."""
    if isinstance(value, dict):
        return {key: _with_tuples(inner) for key, inner in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list | tuple) else value


def digest(value: object) -> str:
    """SHA-256 (hex) of a JSON value in canonical form: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
