"""BLSP-Emo checkpoint converted to a run folder that training starts from.

    <out>/whisper/                  its Whisper encoder, in transformers' format
    <out>/adapter.safetensors       its adapter, widened to the recipe's streams, its category head,
                                    a new dimension head, and its LoRA if the recipe has the same
    <out>/adapter_config.json
    <out>/recipe.toml               the recipe with this encoder and these initial weights

BLSP-Emo's adapter gets frames of Whisper only. Our adapter also gets frames of other streams, so
its convolutions are wider. BLSP-Emo's weights become a block of ours. Weights from new channels
into that block are zero, so before the first step both adapters compute the same output. Weights
*into* new channels are random: if they were zero too, no gradient would reach them.

The LLM is Qwen v1, whose `c_attn` makes queries, keys and values at once, with one LoRA. Here they
are three projections (`qwen_v1`): each gets a copy of A and its rows of B, the same function.

Source: `modeling_blsp2.py` and `modeling_adapter.py` of cwang621/blsp-emo.

Shapes: S channels of BLSP-Emo, W of ours, H the LLM's hidden size, K the kernel size.
"""

import dataclasses
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import WhisperConfig, WhisperModel

from rellm_cache.config.recipes import to_toml
from rellm_cache.config.schema import LoraConfig, Recipe
from rellm_cache.errors import ConfigError
from rellm_cache.importers.checkpoint_source import CheckpointWeights, find_weights, read_config
from rellm_cache.model.adapter import CONVOLUTIONS, KERNEL, ConvAdapter
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.runs.weights import (
    CONFIG,
    RECIPE,
    WEIGHTS,
    AdapterInfo,
    save_config,
    save_tensors,
)
from rellm_cache.utils.atomic_files import new_folder
from rellm_cache.utils.checksums import record
from rellm_cache.utils.console import progress
from rellm_cache.utils.model_files import weights_digest
from rellm_cache.utils.weight_shards import ShardedModelWriter

PREPROCESSOR = "preprocessor_config.json"
ADAPTER, WHISPER, LORA = "adapter.", "whisper_model.", ".lora_"
HEAD = "hidden2emotion.weight"
HEAD_EMOTIONS = ("neutral", "happy", "angry", "sad", "surprise")  # rows of its category head
# LoRA of Qwen v1: layer, projection, A or B. And its projections by Qwen2's names.
LORA_NAME = re.compile(
    r"qwen_model\..*\bh\.(\d+)\.(attn|mlp)\.(\w+)\.lora_([AB])(?:\.\w+)?\.weight"
)
LORA_TARGETS = {
    "attn.c_attn": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.c_proj": ("self_attn.o_proj",),
    "mlp.w1": ("mlp.up_proj",),
    "mlp.w2": ("mlp.gate_proj",),
    "mlp.c_proj": ("mlp.down_proj",),
}
CONV = f"{ADAPTER}subsampler.conv_layers."
# Its other adapter tensors by our names.
TENSORS = {
    f"{ADAPTER}fc1.weight": "fc1.weight",
    f"{ADAPTER}fc2.weight": "fc2.weight",
    f"{ADAPTER}speech_ln.weight": "norm.weight",
    f"{ADAPTER}speech_ln.bias": "norm.bias",
}
# Fields of the Whisper configuration that define the encoder.
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
# Errors of transformers and torch for an invalid encoder configuration.
INVALID_ENCODER = (
    StrictDataclassError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError,
)  # fmt: skip


@dataclass(frozen=True)
class BlspConfig:
    """The fields of a BLSP-Emo configuration that the import needs."""

    whisper: WhisperConfig  # configuration of the encoder, without a decoder
    encoder_shapes: dict[str, tuple[int, ...]]  # name → shape of the encoder's tensors
    hidden_size: int  # H
    bottleneck: int  # of the adapter
    lora_alpha: float | None  # of the LLM's LoRA, where the file says it


@dataclass(frozen=True)
class ImportedRun:
    """A run folder made from a BLSP-Emo checkpoint."""

    out: Path  # the run folder
    recipe: Path  # path of the recipe that starts from it
    whisper: Path  # folder of the encoder
    trainable: int  # number of parameters of adapter and heads
    emotion_head: bool  # whether the checkpoint's category head was taken
    lora: int  # number of LoRA tensors of the checkpoint
    lora_taken: bool  # whether they were taken


def import_blsp(folder: Path, out: Path, recipe: Recipe, sizes: Mapping[str, int]) -> ImportedRun:
    """Make a run folder from a BLSP-Emo checkpoint.

    Args:
        recipe: gives encoders, adapter and heads for the training.
        sizes: stream → values in a frame, for all streams but the first; other names are ignored.

    Raises:
        ConfigError: the checkpoint is incomplete, has another adapter, or does not fit the recipe.
        RellmError: `out` is not empty or cannot be written.
    """
    config = read_blsp_config(folder, read_config(folder))
    check_recipe(recipe, config, sizes)
    speech, *others = recipe.encoders
    sizes = {speech: config.whisper.d_model, **{name: sizes[name] for name in others}}
    if not (folder / PREPROCESSOR).is_file():
        raise ConfigError(f"{folder / PREPROCESSOR}: is missing; copy it from the checkpoint")
    weights = find_weights(folder)
    shapes = expected_shapes(config)
    heads = recipe.heads  # attention starts with equal weights, and so as the mean
    reads_mean = heads.pooling in ("mean", "attention") and not heads.projection
    emotion_head = HEAD in weights.described and reads_mean
    if emotion_head:
        shapes[HEAD] = (len(HEAD_EMOTIONS), config.hidden_size)
    weights.check(shapes, is_ignored)
    model = initial_model(recipe, config, sizes, weights)
    if emotion_head:
        copy_emotion_head(model, recipe.heads.emotions, weights)
    lora = recipe.used_llm.lora if recipe.used_llm else None
    lora_tensors = read_lora(weights, lora, config.lora_alpha) if lora else {}
    info = AdapterInfo(
        sizes=sizes,
        output_size=config.hidden_size,
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        licences={"BLSP-Emo": "Apache-2.0", "Whisper": "MIT"},
    )
    needed_bytes = weights.bytes(config.encoder_shapes) + 4 * info.trainable_parameters
    with new_folder(out, needed_bytes) as temporary:
        write_whisper(folder, config, weights, temporary / "whisper")
        recipe = initial_recipe(recipe, out.absolute(), weights_digest(temporary / "whisper"))
        save_tensors(temporary / WEIGHTS, model, lora_tensors)
        save_config(temporary, info, recipe)
        (temporary / RECIPE).write_text(to_toml(recipe), "utf-8")
        record(temporary, (WEIGHTS, CONFIG, RECIPE))
    return ImportedRun(
        out=out,
        recipe=out / RECIPE,
        whisper=out / "whisper",
        trainable=info.trainable_parameters,
        emotion_head=emotion_head,
        lora=sum(LORA in name for name in weights.described),
        lora_taken=bool(lora_tensors),
    )


def read_blsp_config(folder: Path, config: dict[str, Any]) -> BlspConfig:
    """Check the configuration of a BLSP-Emo checkpoint.

    Raises:
        ConfigError: it is another model, or its adapter has more than BLSP-Emo's convolutions.
    """
    file = folder / "config.json"
    if not all(isinstance(config.get(key), dict) for key in ("whisper_config", "qwen_config")):
        raise ConfigError(
            f"{file}: architectures = {config.get('architectures')}; expected a BLSP-Emo "
            "checkpoint with whisper_config and qwen_config"
        )
    expected = {
        "adapter_type": "subsampler",
        "conv_kernel_sizes": ",".join([str(KERNEL)] * CONVOLUTIONS),
        "adapter_hidden_layers": 0,
    }
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise ConfigError(
                f"{file}: {key} = {config[key]!r}, expected {value!r}, because rellm's adapter has "
                "only the convolutions of BLSP-Emo"
            )
    try:
        hidden, bottleneck = config["qwen_config"]["hidden_size"], config["adapter_inner_dim"]
        encoder = {name: config["whisper_config"][name] for name in ENCODER_FIELDS}
    except KeyError as error:
        raise ConfigError(f"{file}: {error} is missing; copy the file again") from error
    try:
        whisper = WhisperConfig(**encoder, **NO_DECODER)
        with torch.device("meta"):
            tensors = WhisperModel(whisper).encoder.state_dict()
        shapes = {f"{WHISPER}{name}": tuple(tensor.shape) for name, tensor in tensors.items()}
        lora = config.get("lora_config")
        alpha = lora.get("lora_alpha") if isinstance(lora, dict) else None
        alpha = None if alpha is None else float(alpha)
        return BlspConfig(whisper, shapes, int(hidden), int(bottleneck), alpha)
    except INVALID_ENCODER as error:
        raise ConfigError(
            f"{file}: whisper_config, hidden_size or adapter_inner_dim has an invalid value "
            f"({' '.join(str(error).split())}); copy the file again"
        ) from error


def check_recipe(recipe: Recipe, config: BlspConfig, sizes: Mapping[str, int]) -> None:
    """Raise `ConfigError` if a recipe cannot start from this checkpoint."""
    adapter = recipe.adapter
    (name, speech), *others = recipe.encoders.items()
    found = {
        "adapter.kind": (adapter.kind, "conv"),
        "adapter.preset": (adapter.preset, "reference"),
        "adapter.bottleneck": (adapter.bottleneck, config.bottleneck),
        "adapter.output_size": (adapter.output_size or config.hidden_size, config.hidden_size),
        f"encoders.{name}.kind": (speech.kind, "whisper"),
        f"encoders.{name}.layer": (speech.layer, -1),
        f"encoders.{name}.layers": (speech.layers, ()),
    }
    for field, (value, expected) in found.items():
        if value != expected:
            raise ConfigError(
                f"recipe {recipe.name!r}: {field}: found {value!r}, but this BLSP-Emo checkpoint "
                f"needs {expected!r}"
            )
    for other, encoder in others:
        if encoder.layers == "all":
            raise ConfigError(
                f'recipe {recipe.name!r}: encoders.{other}.layers = "all": expected numbers, as '
                "[0, 1, 2], because no store tells them here"
            )
        if sizes.get(other, 0) < 1:
            raise ConfigError(
                f"recipe {recipe.name!r}: the size of stream {other!r} is unknown; give "
                f"--stream-size {other} VALUES"
            )


def expected_shapes(config: BlspConfig) -> dict[str, tuple[int, ...]]:
    """Name → shape of the tensors that are imported."""
    size, hidden = config.whisper.d_model, config.hidden_size
    shapes = dict(config.encoder_shapes)
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


def is_ignored(name: str) -> bool:
    """Whether a tensor need not be imported: the LLM, its LoRA, the category head."""
    return name.startswith(("qwen_model.", "hidden2emotion."))


def initial_model(
    recipe: Recipe, config: BlspConfig, sizes: Mapping[str, int], weights: CheckpointWeights
) -> SpeechLLM:
    """Adapter with BLSP-Emo's weights, and heads. The recipe's seed sets the new random weights."""
    adapter = dataclasses.replace(recipe.adapter, output_size=config.hidden_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        recipe = dataclasses.replace(recipe, adapter=adapter)
        model = SpeechLLM(recipe, sizes, llm=None)
    assert isinstance(model.adapter, ConvAdapter)
    copy_adapter(model.adapter, read_adapter(weights))
    return model


@torch.no_grad()
def copy_emotion_head(
    model: SpeechLLM, emotions: Sequence[str], weights: CheckpointWeights
) -> None:
    """Copy the rows of BLSP-Emo's category head; other emotions keep their random rows."""
    head = weights.one(HEAD)  # (5, H)
    for row, emotion in enumerate(emotions):
        if emotion in HEAD_EMOTIONS:
            model.heads.category.weight[row] = head[HEAD_EMOTIONS.index(emotion)]


def read_lora(
    weights: CheckpointWeights, config: LoraConfig, alpha: float | None
) -> dict[str, Tensor]:
    """Name in a run's weights → tensor of BLSP-Emo's LoRA, in float32; empty without LoRA.

    Raises:
        ConfigError: rank, `alpha` or targets are not those of the recipe's LoRA.
    """
    tensors: dict[str, Tensor] = {}
    read = (weights.tensors(file, lambda name: LORA in name) for file in weights.files)
    for name, tensor in chain.from_iterable(read):
        if not (found := LORA_NAME.fullmatch(name)):
            continue
        layer, block, projection, part = found.groups()
        targets = LORA_TARGETS.get(f"{block}.{projection}", ())
        tensor = tensor.float()
        values = tensor.chunk(len(targets)) if part == "B" and targets else [tensor] * len(targets)
        for target, value in zip(targets, values, strict=True):
            path = f"lora.model.layers.{layer}.{target}.lora_{part}.weight"
            tensors[path] = value.clone()
    ranks = {len(t) for name, t in tensors.items() if ".lora_A." in name}
    targets_found = {name.split(".")[5] for name in tensors}
    found_alpha = config.alpha if alpha is None else alpha
    theirs = (ranks, found_alpha, targets_found)
    if tensors and theirs != ({config.rank}, config.alpha, set(config.targets)):
        raise ConfigError(
            f"{weights.folder}: its LoRA has rank {sorted(ranks)} and alpha {found_alpha} at "
            f"{sorted(targets_found)}, but llm.lora has {config.rank} and {config.alpha} at "
            f"{sorted(config.targets)}; set llm.lora.rank, alpha and targets to these, or leave "
            "the LoRA out with --set llm.lora=none"
        )
    return tensors


def initial_recipe(recipe: Recipe, out: Path, whisper_sha256: str) -> Recipe:
    """The recipe with the imported encoder and adapter.

    `out` is absolute, so that training may start in any folder. The recipe holds the digest of the
    encoder's weights, so all imports of one checkpoint share a feature store.
    """
    name, encoder = next(iter(recipe.encoders.items()))
    speech = dataclasses.replace(encoder, model=str(out / "whisper"), weights_sha256=whisper_sha256)
    return dataclasses.replace(
        recipe,
        encoders={**recipe.encoders, name: speech},
        training=dataclasses.replace(recipe.training, init_from=str(out)),
    )


def write_whisper(folder: Path, config: BlspConfig, weights: CheckpointWeights, out: Path) -> None:
    """Write the encoder as a `WhisperModel` without decoder layers, with unchanged dtypes."""
    out.mkdir()
    writer = ShardedModelWriter(out)
    with progress("Copying", len(weights.files), "files") as tick:
        for file in weights.files:
            for name, tensor in weights.tensors(file, lambda name: name.startswith(WHISPER)):
                writer.add(f"encoder.{name.removeprefix(WHISPER)}", tensor.contiguous())
            tick(1, file.name)
    writer.close()
    shutil.copyfile(folder / PREPROCESSOR, out / PREPROCESSOR)
    whisper = config.whisper
    whisper.architectures = ["WhisperModel"]
    whisper.dtype = weights.described[f"{WHISPER}conv1.weight"].dtype
    whisper.save_pretrained(out)


def read_adapter(weights: CheckpointWeights) -> dict[str, Tensor]:
    """Name → tensor of BLSP-Emo's adapter, in float32."""
    return {
        name: tensor.float()
        for file in weights.files
        for name, tensor in weights.tensors(file, lambda name: name.startswith(ADAPTER))
    }


@torch.no_grad()
def copy_adapter(adapter: ConvAdapter, source: dict[str, Tensor]) -> None:
    """Copy the tensors of `read_adapter` into a new adapter with the `reference` preset.

    Its speech stream comes first. Random weights into new channels stay.
    """
    target = dict(adapter.named_parameters())
    for index in range(CONVOLUTIONS):
        for part in ("weight", "bias"):
            copy_block(target[f"convs.{index}.conv.{part}"], source[f"{CONV}{index}.{part}"])
    for name, ours in TENSORS.items():
        target[ours].copy_(source[name])


def copy_block(target: Tensor, source: Tensor) -> None:
    """Copy weights of a gated convolution into those of a wider one, in place.

    The first half of the rows are values, the second half gates. Each half is copied to the start
    of the same half of the target. Its weights from the additional inputs become zero.

    Args:
        target: (2 W, W, K) weight or (2 W,) bias.
        source: (2 S, S, K) weight or (2 S,) bias.
    """
    for wide, narrow in zip(target.chunk(2), source.chunk(2), strict=True):  # values, then gates
        block = wide[: len(narrow)]
        block.zero_()
        if narrow.dim() == 1:
            block.copy_(narrow)
        else:
            block[:, : narrow.shape[1]] = narrow
