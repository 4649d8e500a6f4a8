"""Shared parts of tiny Whisper models."""

from typing import Any

# A vocabulary that nobody decodes, and weights large enough to tell frames apart.
UNSPOKEN: dict[str, Any] = {
    "vocab_size": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "init_std": 0.2,
}
