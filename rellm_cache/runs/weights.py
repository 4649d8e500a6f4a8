"""Trained weights of a run and the files that describe them; loading of a finished run.

<run>/adapter.safetensors       adapter, heads and LoRA, nothing frozen
<run>/adapter_config.json       sizes, emotions, LoRA, specs of the encoders, licences
<run>/recipe.toml               complete recipe, with the encoders' weights pinned
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import save_file

from rellm_cache.config.recipes import load_recipe
from rellm_cache.config.schema import LLMConfig, Recipe
from rellm_cache.config.specs import EncoderSpec
from rellm_cache.config.toml import Changes
from rellm_cache.errors import ConfigError, RunError
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm
from rellm_cache.model.layer_mix import SUFFIX
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.utils.atomic_files import update_text, write_file
from rellm_cache.utils.checksums import require_intact
from rellm_cache.utils.console import say
from rellm_cache.utils.json_files import build_record, load
from rellm_cache.utils.regular_files import file_digest
from rellm_cache.utils.tensor_files import load_safetensors

WEIGHTS, CONFIG, RECIPE = "adapter.safetensors", "adapter_config.json", "recipe.toml"
DTYPES = (torch.float32, torch.bfloat16)  # of trained weights, see `training.param_dtype`
AGAIN = "run its `rellm train` again, which makes it again or says what is lost"
# Part of a model, as in `training.init_parts` → starts of its parameters' names.
PARTS = {
    "adapter": ("adapter.", "layer_mix."),
    "emotion": ("heads.category.",),
    "dimensions": ("heads.dimensions.",),
    "lora": ("lora.",),
}
LayerWeights = dict[str, dict[str, float]]  # stream → number of a layer → its weight
HEADS, POOLING = ("emotion", "dimensions"), "heads.pooling."  # comes with any of the heads


@dataclass(frozen=True)
class AdapterInfo:
    """Sizes: D of each stream, H, trained parameters; and the licence of every frozen model."""

    sizes: dict[str, int]
    output_size: int
    trainable_parameters: int
    licences: dict[str, str]


def save_tensors(
    path: Path, model: SpeechLLM, lora: Mapping[str, torch.Tensor] = MappingProxyType({})
) -> None:
    """Write the trained weights atomically; `lora` adds that of a model without its LLM."""
    state = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in (*trained_parameters(model).items(), *lora.items())
    }
    write_file(path, lambda temporary: save_file(state, temporary, metadata={"format": "pt"}))


def trained_parameters(model: SpeechLLM) -> dict[str, torch.nn.Parameter]:
    """Adapter, heads and LoRA by name: all that a checkpoint holds, frozen heads too."""
    return dict(model.named_parameters())


def load_tensors(
    path: Path, model: SpeechLLM, parts: Sequence[str] = tuple(PARTS), fresh_lora: bool = False
) -> None:
    """Load trained weights into a model; `RunError` names a tensor that does not fit.

    Args:
        parts: names of `PARTS` to load; the others keep their weights and may be of other shapes.
        fresh_lora: accept a file without LoRA for a model with LoRA; its LoRA stays untrained.
    """
    state = read_tensors(path)
    others = (starts for part, starts in PARTS.items() if part not in parts)
    left_out = tuple(start for starts in others for start in starts)
    if not any(head in parts for head in HEADS):
        left_out += (POOLING,)
    state = {name: tensor for name, tensor in state.items() if not name.startswith(left_out)}
    own = {n: t for n, t in trained_parameters(model).items() if not n.startswith(left_out)}
    if fresh_lora and not any(name.startswith("lora.") for name in state):
        own = {name: tensor for name, tensor in own.items() if not name.startswith("lora.")}
    for name in sorted(own.keys() | state.keys()):
        found = tuple(state[name].shape) if name in state else "nothing"
        expected = tuple(own[name].shape) if name in own else "nothing"
        if found != expected:
            raise RunError(
                f"{path}: tensor {name!r}: found {found}, expected {expected}; the checkpoint "
                "belongs to another recipe"
            )
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Trained weights by name, float32 or bfloat16.

    Raises:
        RunError: the file is damaged, differs from its checksum, or has a value that is not finite.
    """
    require_intact(path, AGAIN)
    state = load_safetensors(path, RunError, AGAIN)
    for name, tensor in sorted(state.items()):
        if tensor.dtype not in DTYPES:
            raise RunError(
                f"{path}: tensor {name!r}: found {tensor.dtype}, expected torch.float32 or "
                f"torch.bfloat16; {AGAIN}"
            )
        if not bool(tensor.isfinite().all()):
            raise RunError(
                f"{path}: tensor {name!r}: found NaN or infinite values, expected finite ones; "
                f"{AGAIN}"
            )
    return state


def read_layer_weights(path: Path, encoders: Mapping[str, EncoderSpec]) -> LayerWeights:
    """Learned weights of layers in a file of trained weights, which must be intact.

    Args:
        encoders: specs by stream, which name the layers.
    """
    found: LayerWeights = {}
    state = load_safetensors(path, RunError, AGAIN)
    for stream, encoder in encoders.items():
        if (tensor := state.get(f"layer_mix.{stream}{SUFFIX}.weights")) is not None:
            weights = tensor.float().softmax(0).tolist()
            layers = map(str, encoder.layer_numbers)
            found[stream] = dict(zip(layers, weights, strict=True))
    return found


def save_config(run: Path, info: AdapterInfo, recipe: Recipe) -> None:
    """Write `adapter_config.json`, unless it has this content."""
    update_text(run / CONFIG, config_text(info, recipe))


def config_text(info: AdapterInfo, recipe: Recipe) -> str:
    """Content of `adapter_config.json`."""
    lora = recipe.llm.lora if recipe.llm else None
    content: dict[str, Any] = {
        **asdict(info),
        "encoders": {n: {**e.to_json(), "pooling": e.pooling} for n, e in recipe.encoders.items()},
        "heads": asdict(recipe.heads),
        "lora": asdict(lora) if lora else None,
    }
    return json.dumps(content, indent=2) + "\n"


def load_info(run: Path) -> AdapterInfo:
    """Read `adapter_config.json`; `RunError` if the folder is not a finished run."""
    require_intact(run / CONFIG, AGAIN)
    try:
        content = load(run / CONFIG)
        if "sizes" not in content:  # written before streams had names
            both = {"speech": content["speech_size"], "emotion": content["emotion_size"]}
            content["sizes"] = {name: size for name, size in both.items() if size}
        known = AdapterInfo.__dataclass_fields__
        return build_record(AdapterInfo, {k: v for k, v in content.items() if k in known})
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(
            f"{run}: not the folder of a finished run ({type(error).__name__}: {error}); expected "
            f"{CONFIG} and {WEIGHTS}, which `rellm train` writes"
        ) from error


def adapter_digest(run: Path) -> str:
    """SHA-256 (hex) of the trained weights; `RunError` if the folder is not a finished run."""
    load_info(run)
    if not (run / WEIGHTS).is_file():
        raise RunError(f"{run / WEIGHTS}: is missing; {AGAIN}")
    require_intact(run / WEIGHTS, AGAIN)
    return file_digest(run / WEIGHTS)


def run_recipe(run: Path, overrides: Changes = ()) -> Recipe:
    """Read the recipe of a run folder, with `overrides`; `RunError` if it has none."""
    if not (run / RECIPE).is_file():
        raise RunError(
            f"{run}: not the folder of a finished run; expected {RECIPE}, which `rellm train` "
            "writes"
        )
    require_intact(run / RECIPE, "restore it: `rellm train` cannot make a recipe again")
    return load_recipe(str(run / RECIPE), overrides)


def load_run(
    run: Path,
    device: torch.device,
    load: Callable[[LLMConfig, torch.device], FrozenLLM] = load_llm,
    overrides: Changes = (),
) -> tuple[Recipe, SpeechLLM]:
    """Load the recipe, with `overrides`, and the trained model of a run, in evaluation mode.

    Raises:
        RunError: the folder is not a finished run, or its weights do not fit.
        ConfigError: the recipe is for a text model, which has no trained weights.
    """
    recipe, info = _speech_recipe(run, overrides)
    llm = load(recipe.used_llm, device) if recipe.used_llm else None
    model = SpeechLLM(recipe, info.sizes, llm)
    load_tensors(run / WEIGHTS, model)
    return recipe, model.to(device).eval()


def load_adapter(run: Path, device: torch.device) -> tuple[Recipe, SpeechLLM]:
    """Load a run as `load_run` does, but without its LLM: adapter and heads in evaluation mode.

    It raises what `load_run` raises.
    """
    recipe, info = _speech_recipe(run, ())
    # The size of a run with an LLM is the LLM's, unless the recipe says it.
    size = info.output_size if recipe.needs_llm else recipe.adapter.output_size
    alone = replace(recipe, adapter=replace(recipe.adapter, output_size=size))
    model = SpeechLLM(alone, info.sizes, None)
    load_tensors(run / WEIGHTS, model, [part for part in PARTS if part != "lora"])
    return recipe, model.to(device).eval()


def _speech_recipe(run: Path, overrides: Changes) -> tuple[Recipe, AdapterInfo]:
    """Recipe and sizes of a run that reads speech."""
    recipe = run_recipe(run, overrides)
    if recipe.text is not None:
        raise ConfigError(f"{run}: recipe {recipe.name!r} reads text: it has no adapter to load")
    for key, provider in recipe.providers().items():
        if provider != recipe.plugins[key]:
            say(f"{run}: trained with {key} of {recipe.plugins[key]}; installed is {provider}")
    return recipe, load_info(run)
