"""Pretrained text encoder: token ids with character spans, frozen states, trainable layers.

Letters: B texts, T tokens, H hidden size.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from rellm_cache.errors import ConfigError
from rellm_cache.utils.model_files import load_pretrained, model_errors

BATCH = 32  # texts in one forward pass
POOLER = "pooler."  # weights of BERT's pooler; unused, and often not in a checkpoint


@dataclass(frozen=True)
class TokenizedText:
    """A tokenized text.

    Attributes:
        ids: token ids, with special tokens at both ends.
        spans: character range (start, end) of each token; (0, 0) for special tokens.
        cut: whether the text is longer than the limit.
    """

    ids: list[int]
    spans: list[tuple[int, int]]
    cut: bool


class PassThroughEmbeddings(nn.Module):
    """Replaces an encoder's embeddings and passes its input states on."""

    def forward(self, *, inputs_embeds: Tensor, **_: Any) -> Tensor:
        """Return the states (B, T, H)."""
        return inputs_embeds


class TextEncoder:
    """A frozen text encoder.

    Raises:
        ConfigError: its files need their own Python code or lack weights, or its tokenizer does
            not give character spans.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        with model_errors(folder):
            self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = load_pretrained(
            AutoModel,
            folder,
            needed=lambda name: not name.startswith(POOLER),
            dtype=torch.float32,
            attn_implementation="sdpa",
        )
        if not self.tokenizer.is_fast:
            raise ConfigError(f"{folder}: its tokenizer has no tokenizer.json; convert it to one")
        self.folder = folder
        self.device = device
        self.model = model.to(device).eval().requires_grad_(False)
        self.hidden_size = int(model.config.hidden_size)

    @property
    def layers(self) -> int:
        """Number of layers."""
        return int(self.model.config.num_hidden_layers)

    def require_length(self, tokens: int) -> None:
        """Raise `ConfigError` if texts of `tokens` tokens are too long."""
        positions = int(getattr(self.model.config, "max_position_embeddings", tokens))
        embeddings = getattr(self.model, "embeddings", None)
        if (padding := getattr(embeddings, "padding_idx", None)) is not None:
            positions -= padding + 1  # RoBERTa's positions start after the padding index
        most = min(positions, int(self.tokenizer.model_max_length))
        if tokens > most:
            raise ConfigError(f"{self.folder}: texts of {tokens} tokens; it takes {most} at most")

    def tokenize(self, text: str, limit: int) -> TokenizedText:
        """Tokenize a text and cut it to `limit` tokens."""
        pieces = self.tokenizer(
            text,
            truncation=True,
            max_length=limit,
            return_offsets_mapping=True,
            return_overflowing_tokens=True,
        )
        spans = [(int(first), int(last)) for first, last in pieces["offset_mapping"][0]]
        return TokenizedText(list(pieces["input_ids"][0]), spans, cut=len(pieces["input_ids"]) > 1)

    @torch.inference_mode()
    def states(self, texts: Sequence[TokenizedText], layer: int) -> list[Tensor]:
        """(T, H) float16 states of each text after a layer: 0 the embeddings, -1 the last layer.

        The states of a text do not depend on the other texts, except for rounding.
        """
        found: list[Tensor] = [torch.empty(0)] * len(texts)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i].ids))
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            ids, mask = pad([torch.tensor(texts[i].ids) for i in chosen])
            output = self.model(
                input_ids=ids.to(self.device),
                attention_mask=mask.to(self.device).long(),
                output_hidden_states=True,
            )
            for index, states in zip(chosen, output.hidden_states[layer].half(), strict=True):
                found[index] = states[: len(texts[index].ids)].clone()
        return found

    def trainable_layers(self, layers: int) -> nn.Module:
        """A trainable copy of the last `layers` layers; input: states. -1: all layers; input: ids.

        Raises:
            ConfigError: the encoder has fewer layers, or is not built like BERT or RoBERTa.
        """
        model: Any = copy.deepcopy(self.model).requires_grad_(True)
        if getattr(model, "pooler", None) is not None:
            model.pooler = None  # unused here
        if layers >= 0:
            stack = getattr(getattr(model, "encoder", None), "layer", None)
            if not isinstance(stack, nn.ModuleList) or not hasattr(model, "embeddings"):
                raise ConfigError(
                    f"{self.folder}: its layers cannot be separated; set trained_layers=-1"
                )
            if layers > len(stack):
                raise ConfigError(f"trained_layers = {layers}: {self.folder} has {len(stack)}")
            model.embeddings = PassThroughEmbeddings()
            model.encoder.layer = stack[len(stack) - layers :]
        trainable: nn.Module = model
        return trainable


def pad(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pad rows (t, …) with zeros to (B, T, …); also the mask (B, T), true where there is data."""
    padded = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    return padded, torch.arange(padded.shape[1]) < lengths[:, None]
