"""import qwen. In: a Qwen v1 checkpoint. Out: the same model as a native Qwen2 folder.

    <out>/config.json, generation_config.json
    <out>/model-0000I-of-0000N.safetensors, model.safetensors.index.json
    <out>/tokenizer.json, tokenizer_config.json, chat_template.jinja
    <out>/LICENSE, NOTICE                 where the checkpoint has them

Everything is checked before the first byte is written. One file's weights are in memory at a time.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from rellm_cache.errors import ConfigError
from rellm_cache.importers.checkpoint_source import find_weights, read_config
from rellm_cache.importers.model_folder import SHARD_BYTES, ShardWriter
from rellm_cache.importers.qwen_tokenizer import (
    RANKS,
    SPECIAL_TOKENS,
    generation_config,
    make_tokenizer,
    read_ranks,
)
from rellm_cache.importers.qwen_v1 import check_weights, expected_shapes, read_qwen_config, renamed
from rellm_cache.utils.atomic_files import new_folder
from rellm_cache.utils.console import progress
from rellm_cache.utils.json_files import read_object

LICENCES = ("LICENSE*", "NOTICE*")


@dataclass(frozen=True)
class ImportedModel:
    """A converted chat model.

    Attributes:
        out: its folder.
        parameters: in it.
        bytes: of its weights.
        positions: the longest row it takes.
        chat: whether it is a chat model, by its generation_config.json.
    """

    out: Path
    parameters: int
    bytes: int
    positions: int
    chat: bool


def import_qwen(folder: Path, out: Path, shard_bytes: int = SHARD_BYTES) -> ImportedModel:
    """Write a Qwen v1 checkpoint as a native Qwen2 folder.

    Args:
        folder: with config.json, the weights, qwen.tiktoken and generation_config.json.
        out: the new folder.
        shard_bytes: of weights in one file, and in memory.

    Raises:
        ConfigError: the checkpoint is incomplete, or no Qwen v1 checkpoint that Qwen2 can repeat.
        RellmError: `out` holds something, or cannot be written.
    """
    config = read_qwen_config(folder, read_config(folder))
    generation = read_object(
        folder / "generation_config.json", ConfigError, "copy it from the checkpoint"
    )
    chat = generation.get("chat_format") == "chatml"
    ranks = read_ranks(folder / RANKS)
    # Special tokens follow the last rank: a file cut short would move them, unnoticed.
    if generation.get("eos_token_id") != len(ranks):
        raise ConfigError(
            f"{folder / RANKS}: {len(ranks)} tokens, but generation_config.json ends a text with "
            f"token {generation.get('eos_token_id')}, expected the next one; copy both files again"
        )
    if len(ranks) + len(SPECIAL_TOKENS) > config.vocab_size:
        raise ConfigError(
            f"{folder / RANKS}: {len(ranks)} tokens and {len(SPECIAL_TOKENS)} special ones, but "
            f"the model has {config.vocab_size}; copy the file that belongs to this checkpoint"
        )
    weights = find_weights(folder)
    config.dtype = check_weights(weights, config)
    shapes = expected_shapes(config)
    with new_folder(out, weights.bytes(shapes)) as partial:
        writer = ShardWriter(partial, shard_bytes)
        with progress("Renaming", len(weights.files), "files") as tick:
            for file in weights.files:
                for name, tensor in weights.tensors(file):
                    for new_name, new_tensor in renamed(name, tensor):
                        writer.add(new_name, new_tensor)
                tick(1, file.name)
        writer.close()
        tokenizer = make_tokenizer(ranks, chat)
        tokenizer.model_max_length = config.max_position_embeddings
        tokenizer.save_pretrained(partial)
        ends = generation_config(tokenizer, chat)
        config.bos_token_id, config.eos_token_id = ends.bos_token_id, ends.eos_token_id
        ends.save_pretrained(partial)
        for licence in (f for pattern in LICENCES for f in folder.glob(pattern) if f.is_file()):
            shutil.copyfile(licence, partial / licence.name)
        config.save_pretrained(partial)
    return ImportedModel(
        out=out,
        parameters=writer.bytes // config.dtype.itemsize,
        bytes=writer.bytes,
        positions=config.max_position_embeddings,
        chat=chat,
    )
