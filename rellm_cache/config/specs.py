"""Specs: the identity of cached frames, teacher rows and transcripts.

A spec holds the settings of a model. Its fingerprint is the SHA-256 of those that change what the
model makes. Files keep specs as JSON; docs/cache-format.md describes it.
"""

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

from rellm_cache.errors import ConfigError

EncoderKind = Literal["whisper", "wav2vec2-emotion", "prosody"]

# The values that each kind of encoder takes; the first is the default.
WINDOWS: dict[EncoderKind, tuple[str, ...]] = {
    "whisper": ("30s", "clip"),
    "wav2vec2-emotion": ("clip",),
    "prosody": ("clip",),
}
NORMALISATIONS: dict[EncoderKind, tuple[str, ...]] = {
    "whisper": ("log-mel",),
    "wav2vec2-emotion": ("zero-mean-unit-variance",),
    "prosody": ("fixed-scale",),
}

# Fields that JSON names differently. These names enter fingerprints, so they never change.
_JSON_KEYS = {"weights_sha256": "weights"}
_FIELDS = {key: name for name, key in _JSON_KEYS.items()}


class CachedSpec(ABC):
    """The identity of something cached: a fingerprint, a name, a comparison, a form in JSON.

    Attributes:
        command: makes what the spec describes.
        always: fields of the first edition, which are always in the JSON and the fingerprint. A
            field that was added later is there only where it differs from its default, so that a
            new field changes no existing fingerprint. Never add to it.
    """

    command: ClassVar[str]
    always: ClassVar[frozenset[str]]
    kind: str
    model: str
    weights_sha256: str

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the fields that change what is made.

        The model's path or hub id is left out where its weights are known.
        """
        identity = self.to_json()
        if self.weights_sha256:
            del identity["model"]
        return digest(identity)

    @property
    @abstractmethod
    def slug(self) -> str:
        """A short folder-safe name."""

    def to_json(self) -> dict[str, Any]:
        """The spec as files hold it: every field of the first edition, and later ones in use."""
        return {
            _JSON_KEYS.get(field.name, field.name): value
            for field, value in self._values()
            if field.name in self.always or value != field.default
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """The spec that a file holds; a missing key has its default.

        Raises:
            ConfigError: a key is unknown, or missing and without a default.
        """
        table = {_FIELDS.get(key, key): value for key, value in stored.items()}
        fields = dataclasses.fields(cast("Any", cls))
        if unknown := sorted(table.keys() - {field.name for field in fields}):
            raise ConfigError(
                f"unknown key {unknown[0]!r}, which a newer version of rellm wrote; read it with "
                "that version"
            )
        for field in fields:
            if field.default is dataclasses.MISSING and field.name not in table:
                raise ConfigError(f"key {_JSON_KEYS.get(field.name, field.name)!r} is missing")
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in table.items()})

    def differences(self, other: "CachedSpec") -> list[str]:
        """Fields in which `other` is not what `self` asks for, as readable text.

        Weights are compared where `self` pins them, else the model's name.
        """
        if self.kind != other.kind:
            return [f"kind: wanted {self.kind!r}, found {other.kind!r}"]
        ignored = "model" if self.weights_sha256 else "weights_sha256"
        return [
            f"{field.name}: wanted {mine!r}, found {theirs!r}"
            for field, mine in self._values()
            if field.name != ignored
            and mine != (theirs := getattr(other, field.name, field.default))
        ]

    def _values(self) -> list[tuple[dataclasses.Field[Any], Any]]:
        """Each field with its value."""
        fields = dataclasses.fields(cast("Any", self))
        return [(field, getattr(self, field.name)) for field in fields]


class StoredSpec(CachedSpec):
    """The spec of a feature store: its values have a type."""

    dtype: str


@dataclass(frozen=True)
class EncoderSpec(StoredSpec):
    """What makes an encoder's frames what they are. Device and batch size do not belong here.

    Attributes:
        kind: which encoder of `rellm_cache.encoders`.
        model: hub id or local folder; empty for `prosody`, which has no weights.
        weights_sha256: over the model's files, filled in when the model is found. In a recipe it
            pins the weights; left empty, any weights of that model id are taken.
        layer: index into the encoder's hidden states: 0 its input embeddings, k the output of
            block k, -1 the last one, after the final layer norm where the encoder has one.
        sampling_rate: of the waveform it hears, in Hz.
        window: "30s" pads each clip to Whisper's 30 s and cuts its frames, "clip" hears the clip
            alone.
        normalisation: what is done to the waveform or features before the first layer.
        dtype: of stored frames: "float16" as encoders make them, "int8" as `rellm cache quantize`
            makes them from those.
        version: of our own encoding code; raised when the same model would give other frames.
    """

    command: ClassVar[str] = "rellm extract"
    always: ClassVar[frozenset[str]] = frozenset(
        [
            "kind",
            "model",
            "weights_sha256",
            "layer",
            "sampling_rate",
            "window",
            "normalisation",
            "dtype",
            "version",
        ]
    )

    kind: EncoderKind
    model: str = ""
    weights_sha256: str = ""
    layer: int = -1
    sampling_rate: int = 16_000
    window: str = ""
    normalisation: str = ""
    dtype: Literal["float16", "int8"] = "float16"
    version: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "window", self.window or WINDOWS[self.kind][0])
        normalisation = self.normalisation or NORMALISATIONS[self.kind][0]
        object.__setattr__(self, "normalisation", normalisation)
        for name, known in (("window", WINDOWS), ("normalisation", NORMALISATIONS)):
            if getattr(self, name) not in known[self.kind]:
                raise ConfigError(
                    f"encoder {self.kind!r}: {name} = {getattr(self, name)!r} is not known; "
                    f"expected {' or '.join(map(repr, known[self.kind]))}"
                )
        if bool(self.model) != (self.kind != "prosody"):
            found = f"model = {self.model!r}"
            expected = "no model" if self.kind == "prosody" else "a hub id or a local folder"
            raise ConfigError(f"encoder {self.kind!r}: found {found}, expected {expected}")
        if self.sampling_rate != 16_000:
            raise ConfigError(
                f"encoder {self.kind!r}: sampling_rate = {self.sampling_rate}; "
                "expected 16000, the rate all three encoders were made for"
            )

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
    """The text LLM that speech is taught by, and what is kept of its distribution.

    A frame of its store is a row of `llm.teacher_distribution`, one for each response token.

    Attributes:
        kind: always "teacher".
        model: hub id or local folder.
        weights_sha256: over the model's files.
        quantization, template: as in a recipe's `[llm]`.
        system, prompt: wording of the request that a response answers, placeholders not filled in.
        top_k: K, tokens told apart.
        temperature: that logits are divided by.
        dtype: of stored values.
        version: of our own code; raised when the same model would give other rows.
    """

    command: ClassVar[str] = "rellm respond --teacher"
    always: ClassVar[frozenset[str]] = frozenset(
        [
            "model",
            "weights_sha256",
            "quantization",
            "template",
            "system",
            "prompt",
            "top_k",
            "temperature",
            "kind",
            "dtype",
            "version",
        ]
    )

    model: str
    weights_sha256: str
    quantization: str
    template: str
    system: str
    prompt: str
    top_k: int
    temperature: float
    kind: Literal["teacher"] = "teacher"
    dtype: Literal["float32"] = "float32"
    version: int = 1

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
    """What makes a clip's transcript what it is: a Whisper, decoded greedily.

    Attributes:
        model: hub id or local folder.
        kind: always "whisper".
        weights_sha256: over the model's files, those of the text side too; as for an encoder.
        language: spoken in the clips, as Whisper abbreviates it; an English-only model knows "en".
        max_tokens: a transcript ends there at the latest.
        version: of our own code; raised when the same model would give other texts.
    """

    command: ClassVar[str] = "rellm transcribe"
    always: ClassVar[frozenset[str]] = frozenset(
        ["model", "kind", "weights_sha256", "language", "max_tokens", "version"]
    )

    model: str
    kind: Literal["whisper"] = "whisper"
    weights_sha256: str = ""
    language: str = "en"
    max_tokens: int = 224
    version: int = 1

    def __post_init__(self) -> None:
        if not self.model:
            raise ConfigError('transcriber.model = "": expected a hub id or a local folder')
        if self.max_tokens < 1:
            raise ConfigError(f"transcriber.max_tokens = {self.max_tokens}: expected 1 or more")

    @property
    def slug(self) -> str:
        """A short folder-safe name, as in `whisper-tiny.en`."""
        return Path(self.model).name.lower()


def digest(value: object) -> str:
    """SHA-256 (hex) of a JSON value in canonical form: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
