"""Bi-encoder of EPITOME (Sharma et al. 2020): logits of levels and rationales, and their loss.

    post  → encoder → states ┐
    reply → encoder → states ┴ one-head attention, added to the reply's states
        → first token → level (0, 1, 2)        → every token → rationale or not

Letters: B exchanges, T tokens of the reply, S of the post, H hidden size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rellm_cache.empathy.epitome import LEVELS
from rellm_cache.empathy.settings import EmpathySettings, Pooling
from rellm_cache.empathy.text_encoder import TextEncoder

IGNORED = -100
INITIAL_DEVIATION = 0.02
MEMBER_SEED_STEP = 1000  # difference between the seeds of ensemble members


@dataclass(frozen=True)
class ExchangeBatch:
    """A padded batch of exchanges.

    Attributes:
        seeker: (B, S, H) float32 states or (B, S) int64 ids of the posts.
        seeker_mask: (B, S) bool, true at tokens, false at padding.
        response: (B, T, H) float32 states or (B, T) int64 ids of the replies.
        response_mask: (B, T) bool.
        levels: mechanism → (B,) int64; IGNORED if not judged.
        rationales: mechanism → (B, T) int64 0 or 1; IGNORED if not judged, and at padding.
    """

    seeker: Tensor
    seeker_mask: Tensor
    response: Tensor
    response_mask: Tensor
    levels: dict[str, Tensor]
    rationales: dict[str, Tensor]

    def to(self, device: torch.device) -> "ExchangeBatch":
        """Copy to a device."""
        return ExchangeBatch(
            self.seeker.to(device),
            self.seeker_mask.to(device),
            self.response.to(device),
            self.response_mask.to(device),
            {name: levels.to(device) for name, levels in self.levels.items()},
            {name: labels.to(device) for name, labels in self.rationales.items()},
        )


@dataclass(frozen=True)
class ScorerOutputs:
    """Logits by mechanism.

    Attributes:
        levels: mechanism → (B, 3).
        rationales: mechanism → (B, T, 2).
    """

    levels: dict[str, Tensor]
    rationales: dict[str, Tensor]


class CrossAttention(nn.Module):
    """Attention with one head from the tokens of the reply to those of the post."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(size, size), nn.Linear(size, size)
        self.value, self.output = nn.Linear(size, size), nn.Linear(size, size)

    def forward(self, reply: Tensor, post: Tensor, post_mask: Tensor) -> Tensor:
        """(B, T, H) for replies (B, T, H) and posts (B, S, H); padding is masked."""
        seen = F.scaled_dot_product_attention(
            self.query(reply), self.key(post), self.value(post), attn_mask=post_mask[:, None, :]
        )
        attended: Tensor = self.output(seen)
        return attended


class EmpathyScorer(nn.Module):
    """The trained part: the encoder's last layers, the attention, two heads per mechanism."""

    def __init__(
        self,
        encoder: TextEncoder,
        settings: EmpathySettings,
        mechanisms: Sequence[str],
        member: int = 0,
    ) -> None:
        super().__init__()
        size = encoder.hidden_size
        pooled = size * (3 if settings.pooling == "statistics" else 1)
        self.settings = settings
        self.member = member
        self.mechanisms = tuple(mechanisms)
        self.encoder = encoder.trainable_layers(settings.trained_layers)
        self.attention = CrossAttention(size)
        self.dropout = nn.Dropout(settings.dropout)
        self.level_heads = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Dropout(settings.dropout),
                    nn.Linear(pooled, size),
                    nn.ReLU(),
                    nn.Dropout(settings.dropout),
                    nn.Linear(size, LEVELS),
                )
                for name in mechanisms
            }
        )
        self.rationale_heads = nn.ModuleDict({name: nn.Linear(size, 2) for name in mechanisms})
        for part in (self.attention, self.level_heads, self.rationale_heads):
            part.apply(_init_weights)
        self.to(encoder.device)

    @property
    def seed(self) -> int:
        """Seed of initial weights, order and dropout."""
        return member_seed(self.settings, self.member)

    def forward(self, batch: ExchangeBatch) -> ScorerOutputs:
        """Logits of a batch."""
        post = batch.seeker
        if self.settings.seeker == "shared":
            post = self._read(post, batch.seeker_mask)  # -> (B, S, H)
        reply = self._read(batch.response, batch.response_mask)  # -> (B, T, H)
        reply = reply + self.dropout(self.attention(reply, post, batch.seeker_mask))
        whole = pool(reply, batch.response_mask, self.settings.pooling)  # (B, T, H) -> (B, P)
        tokens = self.dropout(reply)
        return ScorerOutputs(
            {name: self.level_heads[name](whole) for name in self.mechanisms},
            {name: self.rationale_heads[name](tokens) for name in self.mechanisms},
        )

    def _read(self, inputs: Tensor, mask: Tensor) -> Tensor:
        name = "inputs_embeds" if inputs.is_floating_point() else "input_ids"
        output = self.encoder(**{name: inputs}, attention_mask=mask.long())
        states: Tensor = output.last_hidden_state
        return states


def member_seed(settings: EmpathySettings, member: int) -> int:
    """Seed of an ensemble member; the first member uses the settings' seed."""
    return settings.seed + MEMBER_SEED_STEP * member


def pool(states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Pool states (B, T, H) where mask (B, T) is true: (B, H), or (B, 3H) for "statistics"."""
    first = states[:, 0]
    if pooling == "first":
        return first
    shares = mask / mask.sum(1, keepdim=True)  # (B, T)
    mean = torch.einsum("bt,bth->bh", shares, states)
    if pooling == "mean":
        return mean
    highest = states.masked_fill(~mask[..., None], -torch.inf).amax(1)
    return torch.cat([first, mean, highest], dim=1)


def scorer_loss(
    outputs: ScorerOutputs, batch: ExchangeBatch, class_weights: Mapping[str, Tensor],
    settings: EmpathySettings,
) -> Tensor:  # fmt: skip
    """Scalar loss λ_EI · level + λ_RE · rationale, summed over mechanisms.

    Each term is the mean over the exchanges or tokens that are judged for its mechanism.
    """
    total = torch.zeros((), device=batch.response.device)
    for name, logits in outputs.levels.items():
        levels, rationales = batch.levels[name], batch.rationales[name]
        judged = (levels != IGNORED).sum()
        if judged == 0:
            continue
        weight = class_weights[name]
        level = F.cross_entropy(logits, levels, weight, ignore_index=IGNORED, reduction="sum")
        rationale = F.cross_entropy(
            outputs.rationales[name].flatten(0, 1), rationales.flatten(), ignore_index=IGNORED
        )
        total = total + settings.level_weight * level / judged
        total = total + settings.rationale_weight * rationale
    return total


def class_weights(levels: Sequence[int], power: float) -> Tensor:
    """(3,) loss weights, proportional to count ** -power, with mean 1 over `levels`.

    A level that does not occur has weight 1, which is never used.
    """
    counts = torch.bincount(torch.tensor(levels), minlength=LEVELS).float()
    weights = torch.where(counts > 0, counts.clamp(min=1) ** -power, 0.0)
    mean = (weights * counts).sum() / counts.sum()
    return torch.where(counts > 0, weights / mean, 1.0)


def _init_weights(module: nn.Module) -> None:
    """Initialize as BERT does."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=INITIAL_DEVIATION)
        nn.init.zeros_(module.bias)
