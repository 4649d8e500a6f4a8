"""Getting the frozen chat LLM. In: a recipe's `[llm]`. Out: its folder, its chat layout, itself.

Weights are quantised with bitsandbytes (NF4 with double quantisation, or int8) on GPU and CPU. Code
that comes with a model is never run.
"""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from rellm_cache.config.schema import LLMConfig
from rellm_cache.errors import ConfigError
from rellm_cache.llm.bitsandbytes_import import bitsandbytes
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.offloaded_embedding import HostEmbedding
from rellm_cache.llm.prompts import ChatFormat
from rellm_cache.utils.model_files import check_files, locate_model, weights_digest


def load_llm(config: LLMConfig, device: torch.device) -> FrozenLLM:
    """Load the chat model of a recipe, quantised as it says.

    Raises:
        ConfigError: the model cannot be found, misses a file or weights, or would need code of its
            own.
    """
    folder = find_llm(config)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model, report = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        quantization_config=_quantization(config, dtype),
        device_map={"": device},
        attn_implementation="sdpa",
        output_loading_info=True,
    )
    if report["missing_keys"]:
        raise ConfigError(
            f"{folder}: the checkpoint lacks {sorted(report['missing_keys'])[:3]}; expected every "
            f"weight of a {type(model).__name__}: download it again, or, where the output matrix "
            'is the input embeddings, set "tie_word_embeddings": true in its config.json'
        )
    keep_weights_unpacked(model)
    _plain_greedy(model)
    if config.offload_embeddings:
        keep_embeddings_on_host(model, device)
    return FrozenLLM(model, load_chat(config), config)


def find_llm(config: LLMConfig) -> Path:
    """The folder of the chat model.

    Raises:
        ConfigError: it cannot be found, misses a file, or would need code of its own.
    """
    folder = locate_model(config.model, config.revision)
    _refuse_foreign_code(folder)
    check_files(folder, ("tokenizer.json", "tokenizer_config.json"))
    return folder


def llm_identity(config: LLMConfig) -> dict[str, str]:
    """What decides an LLM's answers without LoRA, wherever and however it is run.

    A hub id names its weights. A folder's may change: it is told by the digest of its files.

    Raises:
        ConfigError: the folder misses a file, or would need code of its own.
    """
    if not Path(config.model).is_dir():
        return config.identity
    return config.identity | {"model": weights_digest(find_llm(config))}


def load_chat(config: LLMConfig) -> ChatFormat:
    """The tokenizer and chat layout of a recipe's model, without its weights."""
    return ChatFormat(AutoTokenizer.from_pretrained(find_llm(config)), config.template)


def keep_weights_unpacked(model: torch.nn.Module) -> None:
    """Stop bitsandbytes from repacking 4-bit weights on CPUs with AVX512-BF16.

    At its first forward without gradients a `Linear4bit` there repacks its weights for inference;
    gradients of later training steps are then wrong, with no more than a warning.
    """
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def keep_embeddings_on_host(model: Any, device: torch.device) -> None:
    """Move a model's table of input embeddings to host memory.

    Raises:
        ConfigError: the table is also the output matrix, which the device needs whole.
    """
    table = model.get_input_embeddings()
    if table.weight is model.get_output_embeddings().weight:
        raise ConfigError(
            f"llm.offload_embeddings = true: {model.name_or_path} ties its input embeddings to its "
            "output matrix, which the device needs; set llm.offload_embeddings = false"
        )
    model.set_input_embeddings(HostEmbedding(table, device))


def _plain_greedy(model: Any) -> None:
    """Drop settings that a checkpoint ships: generation here is greedy, always, and unpenalised."""
    for name in ("temperature", "top_p", "top_k", "repetition_penalty"):
        setattr(model.generation_config, name, None)
    model.generation_config.do_sample = False


def _quantization(config: LLMConfig, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if config.quantization == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    if config.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return None


def _refuse_foreign_code(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        return  # what is missing is named when files are checked
    config = json.loads((folder / "config.json").read_text("utf-8"))
    if config.get("model_type") == "qwen":
        raise ConfigError(
            f"{folder}: the first version of Qwen comes with Python code, which rellm never "
            "executes; make it a native Qwen2 folder and take that as llm.model: "
            f"`rellm import qwen {folder} --out FOLDER`"
        )
    if "auto_map" in config:
        raise ConfigError(
            f"{folder}: model type {config.get('model_type')!r} needs Python code from the model "
            "folder, which rellm never executes; use a checkpoint in a native transformers layout "
            "(Llama, Qwen2, Qwen3), as --set llm.model=Qwen/Qwen2.5-7B-Instruct"
        )
