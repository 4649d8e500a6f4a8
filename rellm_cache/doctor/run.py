"""Diagnosis of a machine: all checks, in the order in which they are shown."""

from collections.abc import Sequence
from pathlib import Path

import torch

from rellm_cache.config.schema import Recipe
from rellm_cache.doctor.checks import Check
from rellm_cache.doctor.libraries import check_libraries
from rellm_cache.doctor.machine import check_four_bits, check_gpu, check_processor
from rellm_cache.doctor.storage import check_cache, check_hub, check_models


def diagnose(
    caches: Sequence[Path], recipes: Sequence[Recipe], required: bool, hub: bool = True
) -> list[Check]:
    """Check this machine for recipes and cache folders; a temporary file is the only thing written.

    Args:
        required: whether a model of these recipes that is missing is an error.
        hub: whether to look if the model hub answers.
    """
    found = [*check_libraries(), *check_processor(), *check_gpu()]
    found.append(check_four_bits(torch.device("cpu")))
    if torch.cuda.is_available():
        found.append(check_four_bits(torch.device("cuda")))
    for cache in caches:
        found += check_cache(cache)
    found += check_models(recipes, required)
    if hub:
        found.append(check_hub())
    return found
