"""Hub ids for tiny models, as a published run needs them."""

from pathlib import Path

import pytest

from rellm_cache.config.schema import Recipe


def link_models(recipe: Recipe, root: Path, patch: pytest.MonkeyPatch) -> list[str]:
    """Put links to a recipe's models under a models root; the overrides that name them."""
    patch.setenv("RELLM_MODELS", str(root))
    (root / "lab").mkdir(parents=True)
    models = {f"encoders.{name}.model": encoder.model for name, encoder in recipe.encoders.items()}
    models["llm.model"] = recipe.require_llm().model
    for key, model in models.items():
        (root / "lab" / key).symlink_to(model)
    return [f"{key}=lab/{key}" for key in models]
