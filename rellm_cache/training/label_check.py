"""Label check before training: losses with nothing to learn from, and data of a single emotion."""

from collections.abc import Sequence
from pathlib import Path

from rellm_cache.config.schema import Recipe
from rellm_cache.data.batch import IGNORED, Example
from rellm_cache.errors import ManifestError
from rellm_cache.model.losses.registry import active_losses, loss_weights

# Task or loss → what a clip needs for it, and how to get it.
NEEDS = {
    "response_lm": ("a response that is not blank", "`rellm respond` makes them"),
    "emotion_lm": ("an emotion of heads.emotions", "correct the labels or heads.emotions"),
    "emotion_ce": ("an emotion of heads.emotions", "correct the labels or heads.emotions"),
    "qa_lm": ("a question of the recipe's [qa]", "`rellm qa` writes them"),
}


def require_labels(examples: Sequence[Example], recipe: Recipe, manifest: Path) -> list[str]:
    """Check that every wanted loss has labels; return warnings about what will not be learned.

    Missing dimensions are a warning only: most corpora have none, and recipes ask for them.

    Raises:
        ManifestError: no clip has the labels of a loss.
    """
    weights = loss_weights(recipe.losses)
    emotions = {example.emotion for example in examples} - {IGNORED}
    present: set[str] = {t.task for example in examples for t in example.targets if t.ids}
    if emotions:
        present.add("emotion_ce")
    warnings = []
    for name, loss in active_losses(recipe.losses, recipe.heads.dimensions).items():
        need = loss.task or name
        if weights[name] > 0 and need in NEEDS and need not in present:
            label, fix = NEEDS[need]
            raise ManifestError(
                f"{manifest}: losses.{name} = {weights[name]:g}, but none of the "
                f"{len(examples)} clips of train has {label}; {fix}, or set losses.{name}=0"
            )
        if loss.needs_dimensions and not any(example.vad for example in examples):
            warnings.append(f"losses.{name} learns nothing, as no clip of train has dimensions")
    if len(emotions) == 1 and {"emotion_ce", "emotion_lm"} & {n for n, w in weights.items() if w}:
        (only,) = emotions
        warnings.append(
            f"every labelled clip of train is {recipe.heads.emotions[only]!r}: the losses of "
            "emotions can only learn to give this answer"
        )
    return warnings
