"""Tiny BLSP-Emo checkpoint in the format of its trainer."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel
from whispers import UNSPOKEN

SPEECH, LLM, BOTTLENECK = 16, 32, 8  # sizes: a frame, an LLM embedding, the adapter's bottleneck
QWEN_PROJECTIONS = {  # inputs and outputs
    "attn.c_attn": (LLM, 3 * LLM),
    "attn.c_proj": (LLM, LLM),
    "mlp.w1": (LLM, 2 * LLM),
    "mlp.w2": (LLM, 2 * LLM),
    "mlp.c_proj": (2 * LLM, LLM),
}


def write_blsp(folder: Path, **changes: Any) -> Path:
    """Pytorch files with an index, in a new folder; `changes` of its config."""
    folder.mkdir()
    torch.manual_seed(11)
    whisper = WhisperConfig(
        d_model=SPEECH,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        **UNSPOKEN,
    )
    config = {
        "architectures": ["Blsp2Model"],
        "adapter_type": "subsampler",
        "adapter_inner_dim": BOTTLENECK,
        "adapter_hidden_layers": 0,
        "conv_kernel_sizes": "5,5,5",
        "lora_config": {"r": 16, "lora_alpha": 16},
        "lora_scope": "audio",
        "whisper_config": whisper.to_dict(),
        "qwen_config": {"model_type": "qwen", "hidden_size": LLM, "vocab_size": 640},
    }
    (folder / "config.json").write_text(json.dumps(config | changes))
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    encoder = {
        f"whisper_model.{n}": t for n, t in WhisperModel(whisper).encoder.state_dict().items()
    }
    layer = "qwen_model.model.transformer.h.0"
    lora = {
        f"{layer}.{name}.lora_{part}.default.weight": torch.randn(shape)
        for name, (inputs, outputs) in QWEN_PROJECTIONS.items()
        for part, shape in (("A", (16, inputs)), ("B", (outputs, 16)))
    }
    rest = {
        **adapter_weights(),
        "qwen_model.model.transformer.wte.weight": torch.randn(640, LLM),
        f"{layer}.attn.c_attn.weight": torch.randn(3 * LLM, LLM),
        **lora,
        "hidden2emotion.weight": torch.randn(5, LLM),
    }
    places = {}
    for number, state in enumerate((encoder, rest), 1):
        file = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save(state, folder / file)
        places |= dict.fromkeys(state, file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def adapter_weights() -> dict[str, Tensor]:
    """Of its subsampler and bottleneck, at random."""
    shapes = {
        f"subsampler.conv_layers.{i}": (2 * (SPEECH, SPEECH, LLM)[i], SPEECH, 5) for i in range(3)
    }
    weights = {}
    for name, shape in shapes.items():
        weights[f"adapter.{name}.weight"] = torch.randn(shape) * 0.2
        weights[f"adapter.{name}.bias"] = torch.randn(shape[0]) * 0.2
    return weights | {
        "adapter.fc1.weight": torch.randn(BOTTLENECK, LLM) * 0.3,
        "adapter.fc2.weight": torch.randn(LLM, BOTTLENECK) * 0.3,
        "adapter.speech_ln.weight": 1 + 0.3 * torch.randn(LLM),
        "adapter.speech_ln.bias": torch.randn(LLM),
    }
