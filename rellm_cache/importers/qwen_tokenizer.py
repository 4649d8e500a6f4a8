"""Qwen v1 tokenizer (`qwen.tiktoken`) converted to a Qwen2 tokenizer.

Both are byte-level BPE with the same splitting expression and the same normalization (NFC). The
file lists tokens with their ranks; transformers' own converter derives the merges from them, as it
does for Llama 3.
"""

import base64
import binascii
from pathlib import Path
from typing import Any

from transformers import GenerationConfig
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer

from rellm_cache.errors import ConfigError
from rellm_cache.utils.regular_files import read_regular, why_unreadable

RANKS = "qwen.tiktoken"
END, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# Ordered by id; the ids follow the last rank (from 151643 in Qwen-7B).
SPECIAL_TOKENS = (END, TURN_START, TURN_END, *(f"<|extra_{i}|>" for i in range(205)))
CHAT_TEMPLATE = (
    "{% if messages[0].role != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def read_ranks(file: Path) -> dict[bytes, int]:
    """Token → rank from a tiktoken file, which holds a base64 token and its rank in each line.

    Raises:
        ConfigError: the file is missing, a line is malformed, the ranks are not 0, 1, 2, …, or a
            single byte is not a token.
    """
    try:
        lines = read_regular(file).splitlines()
    except OSError as error:
        raise ConfigError(f"{file}: {why_unreadable(error, file)}; copy it again") from error
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise ConfigError(
                f"{file}, line {number}: found {line[:40]!r}, expected a token in base64, a space "
                "and its rank; copy the file again"
            ) from error
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ConfigError(f"{file}: the ranks of {len(ranks)} tokens have gaps; copy it again")
    if any(bytes([byte]) not in ranks for byte in range(256)):
        raise ConfigError(f"{file}: expected a token for each of the 256 bytes; copy it again")
    return ranks


def make_tokenizer(ranks: dict[bytes, int], chat: bool) -> Any:
    """A `Qwen2Tokenizer` with these ranks, the special tokens and the ChatML template.

    With `chat`, an answer ends with the end-of-turn token, otherwise with end-of-document.
    """
    vocabulary, merges = _Converter(ranks).extract_vocab_merges_from_model("")
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges, chat_template=CHAT_TEMPLATE)
    # As in tiktoken, text that equals a token is never split, even if the merges would split it.
    tokenizer.backend_tokenizer.model.ignore_merges = True
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS[1:])})
    tokenizer.eos_token = TURN_END if chat else END
    return tokenizer


class _Converter(TikTokenConverter):
    """The library's converter with ranks instead of a file.

    Its own reader needs the tiktoken package, which caches files by path and so returns the old
    content of a changed file.
    """

    def __init__(self, ranks: dict[bytes, int]) -> None:
        super().__init__()
        self._ranks = ranks

    def load_tiktoken_bpe(self, tiktoken_url: str) -> dict[bytes, int]:
        """Return the ranks."""
        return self._ranks


def generation_config(tokenizer: Any, chat: bool) -> GenerationConfig:
    """End tokens of generation, without sampling settings, because rellm generates greedily."""
    end = tokenizer.convert_tokens_to_ids(END)
    turn_end = tokenizer.convert_tokens_to_ids(TURN_END)
    return GenerationConfig(
        bos_token_id=end, pad_token_id=end, eos_token_id=[turn_end, end] if chat else end
    )
