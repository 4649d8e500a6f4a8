"""What makes a scorer what it is. In: an encoder's name and changes. Out: frozen settings."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rellm_cache.config.toml import apply_override, build
from rellm_cache.empathy.epitome import FOLDS
from rellm_cache.errors import ConfigError

Pooling = Literal["first", "mean", "statistics"]


@dataclass(frozen=True)
class EmpathySettings:
    """EPITOME's settings; the defaults are those it published for RoBERTa-base.

    Attributes:
        encoder: hub id or local folder of the text encoder.
        revision: commit on the hub.
        tokens: at which both texts are cut for the labels.
        long_tokens: at which they are cut for the long labels beside them.
        training_tokens: at which they are cut in training.
        seeker: "frozen" reads posts with the encoder as it came, "shared" with the trained one.
        trained_layers: last layers of the encoder that train; -1 trains all of it, the token
            embeddings too.
        together: one encoder for all mechanisms, else one each.
        pooling: what of the reply is classified: its first token, the mean over tokens, or
            "statistics", both and the maximum.
        level_weight: λ_EI, of the loss of the levels.
        rationale_weight: λ_RE, of the loss of the rationales.
        class_power: classes weigh as their frequency to minus this power: 0 all alike, 1 balanced.
        members: networks trained, each from a seed of its own; their logits are averaged.
        word_weight: share of a regression on words in the levels' logits (`words.py`).
        dropout: of the attention and the heads.
        learning_rate: of the encoder's layers.
        head_learning_rate: of the attention and the heads, which start from nothing.
        weight_decay: of matrices.
        warmup: share of the steps in which the learning rates rise.
        batch_size: exchanges a step.
        epochs: passes over the training exchanges.
        seed: of initial weights, order and dropout.
        fold: which fifth of the posts is held out, 0 to 4.
    """

    encoder: str = "FacebookAI/roberta-base"
    revision: str = ""
    tokens: int = 64
    long_tokens: int = 256
    training_tokens: int = 64
    seeker: Literal["frozen", "shared"] = "frozen"
    trained_layers: int = -1
    together: bool = False
    pooling: Pooling = "first"
    level_weight: float = 1.0
    rationale_weight: float = 0.5
    class_power: float = 0.5
    members: int = 1
    word_weight: float = 0.0
    dropout: float = 0.1
    learning_rate: float = 2e-5
    head_learning_rate: float = 2e-5
    weight_decay: float = 0.01
    warmup: float = 0.0
    batch_size: int = 32
    epochs: int = 4
    seed: int = 12
    fold: int = 0

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
    def reading(self) -> tuple[object, ...]:
        """What decides how texts are read: scorers that agree in it can share what was read."""
        limits = (self.tokens, self.long_tokens, self.training_tokens)
        return (self.encoder, self.revision, *limits, self.seeker, self.trained_layers, self.fold)


# Chosen on validation posts (docs/log.md), for encoders that RoBERTa's settings do not suit.
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
        "warmup": 0.05,
        "epochs": 5,
    },
}


def make_settings(encoder: str | None = None, changes: Sequence[str] = ()) -> EmpathySettings:
    """The settings shipped for an encoder, whose name is somewhere in its id or path, changed.

    Args:
        changes: as `key=value`.

    Raises:
        ConfigError: an unknown key or a value that cannot be.
    """
    table: dict[str, Any] = {} if encoder is None else {"encoder": encoder}
    for change in changes:
        apply_override(table, change)
    name = str(table.get("encoder", EmpathySettings.encoder)).lower().replace("_", "-")
    shipped = next((known for part, known in SHIPPED.items() if part in name), {})
    return build(EmpathySettings, {**shipped, **table}, "settings")


def from_table(table: dict[str, Any], where: str) -> EmpathySettings:
    """Settings as `to_table` wrote them."""
    return build(EmpathySettings, table, where)


def to_table(settings: EmpathySettings) -> dict[str, Any]:
    """Settings as plain values."""
    return dataclasses.asdict(settings)
