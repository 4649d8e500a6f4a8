"""Settings of empathy scorers: defaults, presets, and settings shipped for other encoders."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rellm_cache.config.toml import apply_override, build, parse_overrides
from rellm_cache.empathy.epitome import FOLDS
from rellm_cache.errors import ConfigError

Pooling = Literal["first", "mean", "statistics"]


@dataclass(frozen=True)
class EmpathySettings:
    """Settings of a scorer. The defaults are for RoBERTa-base, and published by EPITOME except for
    `class_power`, `lower_case` and `empty_rationale`; the preset `published` has those too."""

    encoder: str = "FacebookAI/roberta-base"  # hub id or local folder of the text encoder
    revision: str = ""  # commit on the hub
    tokens: int = 64  # limit of both texts for the labels
    long_tokens: int = 256  # limit of both texts for the long labels
    training_tokens: int = 64  # limit of both texts in training
    lower_case: bool = False  # whether both texts are lower-cased first
    empty_rationale: Literal["none", "all"] = "none"  # rationale tokens of a reply without one
    seeker: Literal["frozen", "shared"] = "frozen"  # encoder of posts: pretrained or trained
    trained_layers: int = -1  # number of last layers; -1: all, and token embeddings
    together: bool = False  # one encoder for all mechanisms instead of one each
    pooling: Pooling = "first"  # first token of the reply, mean over tokens, or both and maximum
    level_weight: float = 1.0  # λ_EI, weight of the loss of levels
    rationale_weight: float = 0.5  # λ_RE, weight of the loss of rationales
    class_power: float = 0.5  # class weights are count ** -class_power: 0 equal, 1 balanced
    members: int = 1  # networks in the ensemble, with different seeds; their logits are averaged
    word_weight: float = 0.0  # share of the TF-IDF regression in the levels' logits (`tfidf`)
    dropout: float = 0.1  # in attention and heads
    learning_rate: float = 2e-5  # of the encoder's layers
    head_learning_rate: float = 2e-5  # of attention and heads, which start untrained
    weight_decay: float = 0.0  # of matrices; vectors have none
    warmup: float = 0.0  # share of the steps with rising learning rates
    batch_size: int = 32  # exchanges per step
    epochs: int = 4  # passes over the training exchanges
    seed: int = 12  # of initial weights, order and dropout
    fold: int = 0  # the fifth of the posts that is held out, 0 to 4

    def __post_init__(self) -> None:
        for name in ("tokens", "training_tokens", "batch_size", "epochs", "members"):
            if getattr(self, name) < (4 if "tokens" in name else 1):
                raise ConfigError(f"{name} = {getattr(self, name)}: too small")
        if self.long_tokens < self.tokens:
            raise ConfigError(
                f"long_tokens = {self.long_tokens}: expected tokens = {self.tokens} or more"
            )
        if self.trained_layers < -1:
            raise ConfigError(f"trained_layers = {self.trained_layers}: expected -1 (all) or more")
        if not 0 <= self.fold < FOLDS:
            raise ConfigError(f"fold = {self.fold}: expected 0 to {FOLDS - 1}")
        for name in ("word_weight", "dropout", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}: expected 0 or more, below 1")

    @property
    def encoding(self) -> tuple[object, ...]:
        """Settings that determine the encoding of texts; if equal, encoded data can be shared."""
        limits = (self.tokens, self.long_tokens, self.training_tokens)
        texts = (*limits, self.lower_case, self.empty_rationale)
        return (self.encoder, self.revision, *texts, self.seeker, self.trained_layers, self.fold)


# `preset=NAME` among the changes sets these.
PRESETS: dict[str, dict[str, Any]] = {
    "published": {
        "weight_decay": 0.0,
        "lower_case": True,
        "empty_rationale": "all",
        "class_power": 0.0,
    },
}

# For encoders that need other settings than RoBERTa; chosen on validation posts (docs/log.md).
SHIPPED: dict[str, dict[str, Any]] = {
    "all-minilm-l6-v2": {
        "training_tokens": 128,
        "trained_layers": 2,
        "together": True,
        "pooling": "statistics",
        "class_power": 1.0,
        "members": 3,
        "word_weight": 0.7,
        "learning_rate": 4e-4,
        "head_learning_rate": 1e-3,
        "weight_decay": 0.01,
        "warmup": 0.05,
        "epochs": 5,
    },
}


def make_settings(encoder: str | None = None, changes: Sequence[str] = ()) -> EmpathySettings:
    """Settings for an encoder, with changes.

    Args:
        encoder: hub id or folder; shipped settings apply if it contains the name of their encoder.
        changes: strings of the form `key=value`; `preset=published` sets several at once, and
            the other changes replace its values.

    Raises:
        ConfigError: a key or a preset is unknown, or a value is not allowed.
    """
    table: dict[str, Any] = {} if encoder is None else {"encoder": encoder}
    for change in parse_overrides(changes):
        apply_override(table, change)
    preset = table.pop("preset", None)
    if preset is not None and preset not in PRESETS:
        known = ", ".join(map(repr, PRESETS))
        raise ConfigError(f"settings: preset = {preset!r}: expected one of {known}")
    name = str(table.get("encoder", EmpathySettings.encoder)).lower().replace("_", "-")
    shipped = next((known for part, known in SHIPPED.items() if part in name), {})
    return build(EmpathySettings, {**shipped, **PRESETS.get(preset, {}), **table}, "settings")
