"""Loading of the frozen chat LLM: its folder, tokenizer and quantized weights.

bitsandbytes quantizes the weights (NF4 with double quantization, or int8) on GPU and CPU. Python
code in a model folder is never executed.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GenerationConfig

from rellm_cache.config.schema import LLMConfig
from rellm_cache.config.specs import digest
from rellm_cache.errors import ConfigError
from rellm_cache.llm.bf16_products import compute_products_in_bf16
from rellm_cache.llm.bitsandbytes_import import bitsandbytes
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.offloaded_embedding import OffloadedEmbedding
from rellm_cache.llm.output_matrix import QuantizedOutput, require_untied
from rellm_cache.llm.prompts import ChatFormat
from rellm_cache.llm.quantized_copy import QuantizedCopy
from rellm_cache.utils.console import say_once
from rellm_cache.utils.json_files import read_object
from rellm_cache.utils.model_files import (
    check_files,
    load_pretrained,
    local_file,
    locate_model,
    model_errors,
    refuse_custom_code,
    weight_files,
    weights_digest,
)
from rellm_cache.utils.regular_files import file_digest, folder_exists

# Files of a model folder, besides config and weights, that decide which tokens a text becomes.
TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
DIGITS = 8  # hex digits of their digest in a fingerprint
COPIED_BYTES = 100_000_000  # smaller weights are quantized in a moment


def load_llm(config: LLMConfig, device: torch.device) -> FrozenLLM:
    """Load and quantize the chat model of a recipe.

    Quantized weights are saved once, see `quantized_copy`, unless `llm.quantized_copy` is false.

    Raises:
        ConfigError: the model cannot be found or loaded, lacks a file or weights, has weights that
            are not finite or quantized otherwise, does not fit its tokenizer, or needs its own
            Python code.
    """
    model = _load_model(find_llm(config), config, device)
    chat = load_chat(config)
    _check_end_tokens(model, chat)
    return freeze(model, chat, config, device)


def freeze(model: Any, chat: ChatFormat, config: LLMConfig, device: torch.device) -> FrozenLLM:
    """The frozen LLM of a model on its device, with the recipe's options of its output and inputs.

    Raises:
        ConfigError: an option needs an output matrix that is not the input embeddings.
    """
    _reset_generation_config(model)
    if config.quantize_output:
        quantize_output(model)
    if config.cpu_precision == "bf16" and device.type == "cpu":
        compute_products_in_bf16(model)
    if config.offload_embeddings:
        offload_embeddings(model, device)
    return FrozenLLM(model, chat, config)


def save_quantized_copy(config: LLMConfig, device: torch.device) -> Path | None:
    """Quantize the LLM of a recipe and keep the copy that `load_llm` reads on such a device.

    Returns its folder; None if it could not be kept, which is reported. Raises like `load_llm`.
    """
    folder = find_llm(config)
    _load_model(folder, config, device)
    copy = _quantized_copy(folder, config, device)
    return copy.path if copy is not None and copy.path.exists() else None


def _load_model(folder: Path, config: LLMConfig, device: torch.device) -> Any:
    """The quantized model of a folder: from its copy if there is one, else it is saved."""
    copy = _quantized_copy(folder, config, device)
    ready = copy is not None and copy.is_ready()
    own = _require_quantization(folder, config) or ready
    dtype = compute_dtype(device)
    packing: dict[str, Any] = (
        {} if own else {"quantization_config": quantization_settings(config, dtype)}
    )
    model = load_pretrained(
        AutoModelForCausalLM,
        copy.path if copy is not None and ready else folder,
        "download it again, or, if the output matrix is the input embeddings, set "
        '"tie_word_embeddings": true in its config.json',
        dtype=dtype,
        quantized=own,
        **packing,
        device_map={"": device},
        attn_implementation="sdpa",
    )
    model.name_or_path = model.config._name_or_path = str(folder)
    if ready:
        widen(model, dtype)
    keep_weights_unpacked(model)
    require_finite(model)
    if copy is not None and not ready:
        copy.write(model)
    return model


def _quantized_copy(folder: Path, config: LLMConfig, device: torch.device) -> QuantizedCopy | None:
    """The copy of a model, None if the recipe wants none or its weights need no quantizing."""
    wanted = config.quantized_copy and config.quantization != "none"
    if not wanted or _require_quantization(folder, config):
        return None
    if sum(file.stat().st_size for file in weight_files(folder)) < COPIED_BYTES:
        return None
    return QuantizedCopy(folder, config, compute_dtype(device))


def widen(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Convert weights that are not quantized from the dtype in which a copy holds them."""
    for weight in model.parameters():
        if weight.is_floating_point():
            weight.data = weight.data.to(dtype)


def compute_dtype(device: torch.device) -> torch.dtype:
    """Dtype of an LLM's computations, and of its weights that are not quantized."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def find_llm(config: LLMConfig) -> Path:
    """The folder of the chat model.

    Raises:
        ConfigError: it cannot be found, lacks a file, or needs its own Python code.
    """
    folder = locate_model(config.model, config.revision)
    _refuse_qwen_v1(folder)
    refuse_custom_code(folder)
    check_files(folder, ("tokenizer.json", "tokenizer_config.json"))
    return folder


def llm_identity(config: LLMConfig) -> dict[str, str]:
    """The values, except LoRA, that determine an LLM's answers on any device.

    A folder's weights may change, so a digest of its files identifies it. Raises like `find_llm`.
    """
    if not folder_exists(config.model):
        return config.identity
    return config.identity | {"model": weights_digest(find_llm(config))}


def with_text_files(fingerprint: str, *configs: LLMConfig) -> str:
    """Add a digest of the LLMs' tokenizers, templates and end tokens to a fingerprint.

    It follows a "+", see `same_inputs`. A model that is not on this machine adds nothing.
    """
    found = [text_files_digest(config) for config in configs]
    return f"{fingerprint}+{digest(found)[:DIGITS]}" if found and all(found) else fingerprint


def text_files_digest(config: LLMConfig) -> str:
    """SHA-256 (hex) of the files besides the weights that decide an answer, "" if not known.

    These are the tokenizer's files, the chat template, and the end tokens of the generation
    config; no other setting of that file is used.
    """
    paths = {name: local_file(config.model, name, config.revision) for name in TEXT_FILES}
    if not any(paths.values()):
        return ""
    known = {name: file_digest(path) for name, path in paths.items() if path is not None}
    generation = local_file(config.model, "generation_config.json", config.revision)
    if generation is not None:
        settings = read_object(generation, ConfigError, "copy the file again")
        known["end"] = repr(settings.get("eos_token_id"))
    return digest(known)


def load_chat(config: LLMConfig) -> ChatFormat:
    """Load the tokenizer and chat format of a recipe's model, without its weights."""
    folder = find_llm(config)
    with model_errors(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if isinstance(tokenizer.chat_template, str):
            tokenizer.chat_template = tokenizer.chat_template.removeprefix("\ufeff")
        return ChatFormat(tokenizer, config.template)  # tokenizes: wrong settings show here


def keep_weights_unpacked(model: torch.nn.Module) -> None:
    """Stop bitsandbytes from repacking 4-bit weights on CPUs with AVX512-BF16.

    On them, the first forward pass without gradients repacks the weights of a `Linear4bit` for
    inference. Gradients of later training steps are then wrong, with only a warning.
    """
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def require_finite(model: torch.nn.Module) -> None:
    """Raise `ConfigError` that names a weight with NaN or infinite values."""
    for name, weight in model.named_parameters():
        values = [weight.detach()]
        if (scale := getattr(weight, "SCB", None)) is not None:  # 8-bit: a scale for each row
            values = [scale]
        if (state := getattr(weight, "quant_state", None)) is not None:  # 4-bit: its scales
            scales = (state.absmax, state.offset, state.state2 and state.state2.absmax)
            values = [scale for scale in scales if scale is not None]
        for tensor in values:
            extremes = torch.stack(tensor.aminmax()) if tensor.is_floating_point() else tensor[:0]
            if not extremes.isfinite().all():
                raise ConfigError(
                    f"{getattr(model, 'name_or_path', 'model')}: weight {name} has NaN or infinite "
                    "values, expected finite ones; download the model again"
                )


def _check_end_tokens(model: Any, chat: ChatFormat) -> None:
    """Compare the tokenizer's end tokens with the model; other ends of the model stop it too.

    Raises:
        ConfigError: the model has no embedding of an end token, or an end in its files is no
            token's number.
    """
    rows = len(model.get_input_embeddings().weight)
    if (last := max((*chat.ids(chat.end_text), *chat.stop_ids))) >= rows:
        raise ConfigError(
            f"{model.name_or_path}: the tokenizer's end token "
            f"{chat.tokenizer.convert_ids_to_tokens(last)!r} has id {last}, but the model has "
            f"{rows} tokens; copy tokenizer and weights from the same model"
        )
    ends: set[int] = set()
    files = {"config.json": model.config, "generation_config.json": model.generation_config}
    for file, config in files.items():
        found = config.eos_token_id
        for end in found if isinstance(found, list) else [found]:
            if end is None:
                continue
            if type(end) is not int:
                raise ConfigError(
                    f"{model.name_or_path}/{file}: found eos_token_id {str(found)[:80]}, expected "
                    "the number of a token, or a list of numbers; copy the file again"
                )
            if 0 <= end < rows:  # the model writes no other token
                ends.add(end)
    if ends and not ends & set(chat.stop_ids):
        names = chat.tokenizer.convert_ids_to_tokens(sorted(ends))
        say_once(
            f"{model.name_or_path}: config.json ends a text with {names}, tokenizer and template "
            f"with {chat.tokenizer.convert_ids_to_tokens(chat.stop_ids)}; each of them ends an "
            "answer"
        )
        chat.more_stops = frozenset(ends)


def offload_embeddings(model: Any, device: torch.device) -> None:
    """Move a model's input embeddings to host memory.

    Raises:
        ConfigError: they are also the output matrix, which the device needs.
    """
    require_untied(model, "offload_embeddings", model.name_or_path)
    model.set_input_embeddings(OffloadedEmbedding(model.get_input_embeddings(), device))


def quantize_output(model: Any) -> None:
    """Replace a model's output layer by one in 4 bits.

    Raises:
        ConfigError: its matrix is also the input embeddings, so that nothing would be saved.
    """
    require_untied(model, "quantize_output", model.name_or_path)
    model.set_output_embeddings(QuantizedOutput(model.get_output_embeddings().weight))


def _reset_generation_config(model: Any) -> None:
    """Drop all settings of a checkpoint's `generation_config.json`, which would steer decoding."""
    model.generation_config = GenerationConfig()


def quantization_settings(config: LLMConfig, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """How transformers quantizes the weights of a recipe's LLM; None if it does not."""
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


def _require_quantization(folder: Path, config: LLMConfig) -> bool:
    """Whether the weights in a folder are quantized as the recipe says, so that they stay so.

    Raises:
        ConfigError: they are quantized in another way.
    """
    own = read_object(folder / "config.json", ConfigError, "copy the file again").get(
        "quantization_config"
    )
    if own is None:
        return False
    settings = own if isinstance(own, dict) else {}
    kind = settings.get("quant_method")
    if kind == "bitsandbytes" and settings.get("load_in_8bit"):
        kind = "int8"
    elif kind == "bitsandbytes" and settings.get("load_in_4bit"):
        kind = settings.get("bnb_4bit_quant_type", "fp4")
    if kind != config.quantization:
        fix = f"set llm.quantization = {kind!r}, or " if kind in ("nf4", "int8") else ""
        raise ConfigError(
            f"{folder}/config.json: the weights are quantized already ({kind}), expected "
            f"{config.quantization!r} by llm.quantization; {fix}use the model without quantization"
        )
    return True


def _refuse_qwen_v1(folder: Path) -> None:
    path = folder / "config.json"
    if not path.is_file():
        return  # check_files reports missing files
    config = read_object(path, ConfigError, "copy the file again")
    if config.get("model_type") == "qwen":
        raise ConfigError(
            f"{folder}: the first version of Qwen needs Python code, which rellm never "
            "executes; convert it to a Qwen2 folder and use that as llm.model: "
            f"`rellm import qwen {folder} --out FOLDER`"
        )
