"""Label check before training: losses without labels, data of one emotion, answers too long."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch

from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.data.batch import IGNORED, Example
from rellm_cache.data.streams import StreamSet
from rellm_cache.errors import ManifestError
from rellm_cache.model.losses.registry import active_losses, loss_weights
from rellm_cache.model.speech_llm import SpeechLLM

# Task or loss → what a clip needs for it, and how to get it.
NEEDS = {
    "response_lm": ("a response that is not blank", "`rellm respond` makes them"),
    "emotion_lm": ("an emotion of heads.emotions", "correct the labels or heads.emotions"),
    "emotion_ce": ("an emotion of heads.emotions", "correct the labels or heads.emotions"),
    "qa_lm": ("a question of the recipe's [qa]", "`rellm qa` writes them"),
}


def require_positions(examples: Sequence[Example], streams: StreamSet, model: SpeechLLM) -> None:
    """Raise `ManifestError` that names the first example that is too long for the LLM."""
    for name, reason in too_long(examples, streams, model):
        raise ManifestError(f"{name}: {reason}; shorten its text, or leave the clip out")


def too_long(
    examples: Sequence[Example],
    streams: StreamSet,
    model: SpeechLLM,
    answers: Mapping[str, int] = MappingProxyType({}),
) -> Iterator[tuple[str, str]]:
    """Yield id and reason of each example that is too long for the LLM.

    Args:
        answers: task → most tokens of an answer that the LLM shall generate.
    """
    if model.llm is None:
        return
    frames = streams.lengths([example.id for example in examples])
    embeddings = model.adapter.output_lengths(torch.as_tensor(frames, dtype=torch.long)).tolist()
    for example, length in zip(examples, embeddings, strict=True):
        sizes = [(task, len(model.prompts[task].after) + most) for task, most in answers.items()]
        for target in example.targets:
            asked = (model.prompts[target.task].after, target.after, target.after_with_metadata)
            sizes.append((target.task, max(len(ids or ()) for ids in asked) + len(target.ids)))
        for task, size in sizes:
            needed = len(model.prompts[task].before) + length + size
            if not model.llm.has_positions(needed):
                yield (
                    example.id,
                    f"prompt, speech and answer of {task} take {needed} tokens, more than "
                    f"{model.llm.config.model} supports",
                )
                break


def require_listed_emotions(
    utterances: Sequence[Utterance], recipe: Recipe, manifest: Path
) -> None:
    """Check that a recipe names the emotions of all clips, unless `heads.unlisted` ignores others.

    Raises:
        ManifestError: it does not, and a loss learns emotions.
    """
    heads, losses = recipe.heads, recipe.losses
    if heads.unlisted == "ignore" or not (losses.emotion_ce or losses.emotion_lm):
        return
    found = Counter(
        name for u in utterances for name in (u.soft_emotion or ([u.emotion] if u.emotion else ()))
    )
    others = {name: count for name, count in found.items() if name not in heads.emotions}
    if not others:
        return
    counts = ", ".join(f"{count} of {name!r}" for name, count in sorted(others.items()))
    named = json.dumps(heads.emotions, ensure_ascii=False)
    every = [*(name for name in heads.emotions if name in found), *sorted(others)]
    raise ManifestError(
        f"{manifest}: found clips with emotions that recipe {recipe.name!r} does not name "
        f"({counts}); expected those of heads.emotions = {named}. Train on all emotions with "
        f"--set 'heads.emotions={json.dumps(every, ensure_ascii=False)}', or use these clips "
        "without their emotion with --set heads.unlisted=ignore"
    )


def require_labels(examples: Sequence[Example], recipe: Recipe, manifest: Path) -> list[str]:
    """Check that every wanted loss has labels; return warnings about what will not be learned.

    Missing dimensions are a warning only: most corpora have none, and recipes ask for them.

    Raises:
        ManifestError: no clip has the labels of a loss.
    """
    weights = loss_weights(recipe.losses)
    emotions = {example.emotion for example in examples} - {IGNORED}
    present: set[str] = {t.task for example in examples for t in example.targets if t.ids}
    if emotions or any(example.shares for example in examples):
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
            has_head = recipe.vad_encoder is not None
            fix = "; `rellm annotate` adds predictions of the emotion encoder" if has_head else ""
            warnings.append(
                f"losses.{name} learns nothing, as no clip of train has dimensions{fix}"
            )
    if len(emotions) == 1 and {"emotion_ce", "emotion_lm"} & {n for n, w in weights.items() if w}:
        (only,) = emotions
        warnings.append(
            f"every labelled clip of train is {recipe.heads.emotions[only]!r}: the losses of "
            "emotions can only learn to give this answer"
        )
    return warnings
