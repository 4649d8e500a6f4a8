"""BLSP-Emo's parts. In: its checkpoint. Out: its Whisper encoder, and its adapter made wider.

BLSP-Emo hears Whisper's frames alone; ours has other streams beside them, so every
convolution but the last one's output is wider. Its weights become a block of ours, and what leads
from a new channel into that block is zero: the same function before the first step. What leads
*into* new channels is random, as everywhere in a new adapter; were it zero as well, no gradient
would ever reach them.

Source: `modeling_blsp2.py` and `modeling_adapter.py` of cwang621/blsp-emo.

Letters: S its channels, W ours, H the LLM's hidden size.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import WhisperConfig, WhisperModel

from rellm_cache.errors import ConfigError
from rellm_cache.importers.checkpoint_source import CheckpointWeights
from rellm_cache.model.adapter import CONVOLUTIONS, KERNEL, ConvAdapter

ADAPTER, WHISPER, LORA = "adapter.", "whisper_model.", ".lora_"
# What makes Whisper's encoder; of the rest of its configuration nothing is kept.
ENCODER_FIELDS = (
    "num_mel_bins",
    "d_model",
    "encoder_layers",
    "encoder_attention_heads",
    "encoder_ffn_dim",
    "activation_function",
    "max_source_positions",
    "scale_embedding",
)
NO_DECODER = {
    "decoder_layers": 0,
    "vocab_size": 1,
    "max_target_positions": 1,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "decoder_start_token_id": 0,
}
CONV = f"{ADAPTER}subsampler.conv_layers."
# The rest of its adapter by our names.
PLAIN = {
    f"{ADAPTER}fc1.weight": "fc1.weight",
    f"{ADAPTER}fc2.weight": "fc2.weight",
    f"{ADAPTER}speech_ln.weight": "norm.weight",
    f"{ADAPTER}speech_ln.bias": "norm.bias",
}


@dataclass(frozen=True)
class BlspConfig:
    """What matters here of a BLSP-Emo configuration.

    Attributes:
        whisper: of the encoder, without a decoder.
        hidden_size: H.
        bottleneck: of the adapter.
    """

    whisper: WhisperConfig
    hidden_size: int
    bottleneck: int


def read_blsp_config(folder: Path, config: dict[str, Any]) -> BlspConfig:
    """Check the configuration of a BLSP-Emo checkpoint.

    Raises:
        ConfigError: it is none, or its adapter is not the one this paper's is made from.
    """
    file = folder / "config.json"
    if not all(isinstance(config.get(key), dict) for key in ("whisper_config", "qwen_config")):
        raise ConfigError(
            f"{file}: architectures = {config.get('architectures')}; expected a BLSP-Emo "
            "checkpoint, whose config.json has whisper_config and qwen_config"
        )
    expected = {
        "adapter_type": "subsampler",
        "conv_kernel_sizes": ",".join([str(KERNEL)] * CONVOLUTIONS),
        "adapter_hidden_layers": 0,
    }
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise ConfigError(
                f"{file}: {key} = {config[key]!r}, expected {value!r}: rellm's adapter is made "
                "from BLSP-Emo's convolutions alone"
            )
    try:
        hidden, bottleneck = config["qwen_config"]["hidden_size"], config["adapter_inner_dim"]
        encoder = {name: config["whisper_config"][name] for name in ENCODER_FIELDS}
    except KeyError as error:
        raise ConfigError(f"{file}: {error} is missing; copy the file again") from error
    return BlspConfig(WhisperConfig(**encoder, **NO_DECODER), int(hidden), int(bottleneck))


def expected_shapes(config: BlspConfig) -> dict[str, tuple[int, ...]]:
    """Name → shape of the tensors that are imported."""
    with torch.device("meta"):
        encoder = WhisperModel(config.whisper).encoder.state_dict()
    shapes = {f"{WHISPER}{name}": tuple(tensor.shape) for name, tensor in encoder.items()}
    size, hidden = config.whisper.d_model, config.hidden_size
    for index in range(CONVOLUTIONS):
        outputs = 2 * (hidden if index == CONVOLUTIONS - 1 else size)
        shapes[f"{CONV}{index}.weight"] = (outputs, size, KERNEL)
        shapes[f"{CONV}{index}.bias"] = (outputs,)
    return shapes | {
        f"{ADAPTER}fc1.weight": (config.bottleneck, hidden),
        f"{ADAPTER}fc2.weight": (hidden, config.bottleneck),
        f"{ADAPTER}speech_ln.weight": (hidden,),
        f"{ADAPTER}speech_ln.bias": (hidden,),
    }


def is_left_out(name: str) -> bool:
    """Whether a tensor is of the parts that stay behind: the LLM, its LoRA, the untrained head."""
    return name.startswith(("qwen_model.", "hidden2emotion."))


def read_adapter(weights: CheckpointWeights) -> dict[str, Tensor]:
    """Name → tensor of its adapter, in float32."""
    return {
        name: tensor.float()
        for file in weights.files
        for name, tensor in weights.tensors(file, lambda name: name.startswith(ADAPTER))
    }


@torch.no_grad()
def widen_into(adapter: ConvAdapter, theirs: dict[str, Tensor]) -> None:
    """Set a new `reference` adapter, speech frames first, to BLSP-Emo's function of those frames.

    Args:
        adapter: with random weights; those into new channels stay.
        theirs: from `read_adapter`.
    """
    own = dict(adapter.named_parameters())
    for index in range(CONVOLUTIONS):
        for part in ("weight", "bias"):
            widen(own[f"convs.{index}.conv.{part}"], theirs[f"{CONV}{index}.{part}"])
    for name, ours in PLAIN.items():
        own[ours].copy_(theirs[name])


def widen(ours: Tensor, theirs: Tensor) -> None:
    """Put a gated convolution's weight (2 S, S, K) or bias (2 S,) into a wider one, in place.

    A gated linear unit's first half of rows are values, its second half their gates: each half of
    theirs goes to the start of that half of ours, with zeros from the further inputs.
    """
    for wide, narrow in zip(ours.chunk(2), theirs.chunk(2), strict=True):  # values, then gates
        block = wide[: len(narrow)]
        block.zero_()
        if narrow.dim() == 1:
            block.copy_(narrow)
        else:
            block[:, : narrow.shape[1]] = narrow
