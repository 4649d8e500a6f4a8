"""Shapes of the models of shipped recipes: LLM configs and frame sizes, for machines without them.

The numbers are those of each model's `config.json`.
"""

from typing import Any, Final

import torch
from transformers import AutoConfig, PreTrainedConfig

from rellm_cache.config.schema import EncoderConfig, LLMConfig
from rellm_cache.config.specs import EncoderSpec
from rellm_cache.encoders.registry import build_encoder
from rellm_cache.errors import ConfigError
from rellm_cache.utils.json_files import read_object
from rellm_cache.utils.model_files import find_config, local_folder, model_errors

QWEN_7B: Final[dict[str, Any]] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 151_936,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": 0,
}
SMOLLM2_135M: Final[dict[str, Any]] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1_536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
LLMS: Final = {
    "Qwen-7B-Chat-Qwen2": QWEN_7B,
    "HuggingFaceTB/SmolLM2-135M-Instruct": SMOLLM2_135M,
}
FRAME_SIZES: Final = {
    "openai/whisper-large-v2": 1280,
    "openai/whisper-tiny.en": 384,
    "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim": 1024,
}
SIZE_KEYS: Final = (
    "d_model",
    "hidden_size",
)  # of an encoder's config.json, the first that is there


def llm_shape(config: LLMConfig) -> PreTrainedConfig:
    """The shape of a recipe's LLM: of its folder, of a shipped recipe, or of the model hub.

    Raises:
        ConfigError: it is not known, or its config cannot be used.
    """
    if local_folder(config.model, config.revision) is None and config.model in LLMS:
        return AutoConfig.for_model(**LLMS[config.model])
    path = find_config(config.model, config.revision)
    with model_errors(path.parent):
        return AutoConfig.from_pretrained(path, trust_remote_code=False)


def frame_size(encoder: EncoderConfig | EncoderSpec) -> int:
    """Values in a frame of one layer of an encoder, without loading its weights.

    Raises:
        ConfigError: the encoder's config cannot be found, or does not tell it.
    """
    if not encoder.model:
        return build_encoder(encoder, torch.device("cpu")).frame_size
    if local_folder(encoder.model) is None and encoder.model in FRAME_SIZES:
        return FRAME_SIZES[encoder.model]
    path = find_config(encoder.model)
    config = read_object(path, ConfigError, "copy the file again")
    size = next((config[key] for key in SIZE_KEYS if key in config), None)
    if type(size) is not int or size < 1:
        raise ConfigError(
            f"{path}: found {' and '.join(SIZE_KEYS)} = {size!r:.40}, expected the number of "
            "values in a frame in one of them; `rellm bench` knows no other layout"
        )
    return size
