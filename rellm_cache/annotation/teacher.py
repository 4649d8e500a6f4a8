"""respond --teacher. In: a manifest with responses. Out: the teacher's store, beside the features.

The text LLM reads each request of step 1 and its response once; what it would say next at each
token is kept. Killed at any moment, the same command goes on; what changed since is read again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rellm_cache.annotation.distillation_targets import (
    Lesson,
    find_untaught,
    make_lessons,
    teacher_spec,
)
from rellm_cache.annotation.responses import llm_config
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import read_manifests
from rellm_cache.errors import ConfigError, ManifestError
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_chat, load_llm
from rellm_cache.llm.packing import pack
from rellm_cache.llm.teacher_distribution import distribution_rows
from rellm_cache.model.losses.terms import predictions
from rellm_cache.store.format import StoreInfo
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.remote.mirror import sync_mirror
from rellm_cache.store.writer import StoreWriter, create_store
from rellm_cache.utils.console import progress
from rellm_cache.utils.devices import default_device, describe_machine
from rellm_cache.utils.interrupts import Interrupts


@dataclass(frozen=True)
class TeachReport:
    """What happened to the teacher's store.

    Attributes:
        path: of the store.
        taught: responses read now.
        present: responses that were there already.
        changed: of those read now, how many the store held for another request or response.
        mute: utterances with a response, but no transcript or emotion to ask with.
    """

    path: Path
    taught: int
    present: int
    changed: int
    mute: int


def teach(
    manifest: Path, recipe: Recipe, cache: Path, device: torch.device | None = None
) -> TeachReport:
    """Keep what the text LLM predicts along every expected response of a manifest.

    Args:
        cache: root of the stores; for a URL, what `open_mirror` gives.

    Raises:
        ConfigError: the recipe has no LLM, or its vocabulary is too small for `kl_top_k`.
        ManifestError: the manifest cannot be read, or has no responses.
        StoreError: writing failed; the store keeps every part committed before.
    """
    sync_mirror(cache)
    config = llm_config(recipe)
    lessons, mute = make_lessons(read_manifests(manifest), recipe, load_chat(config))
    if not lessons:
        raise ManifestError(
            f"{manifest}: no utterance has a response, a transcript and an emotion; make responses "
            "with `rellm respond`"
        )
    spec = teacher_spec(recipe)
    licence = f"of {spec.model}: see its model card"
    info = StoreInfo(spec, spec.frame_size, licence)
    path = create_store(cache, info)
    untaught, changed = find_untaught(lessons, FeatureStore(path))
    if untaught:
        llm = load_llm(config, device or default_device())
        vocabulary = len(llm.output_weight)
        if spec.top_k >= vocabulary:
            raise ConfigError(
                f"losses.kl_top_k = {spec.top_k}: expected less than the {vocabulary} tokens of "
                f"{spec.model}"
            )
        with (
            Interrupts() as interrupts,
            progress("Teaching", len(untaught), "responses") as tick,
            StoreWriter(cache, info, writers=[describe_machine(llm.device, llm.dtype)]) as writer,
        ):
            for row in _rows(untaught, config.row_tokens):
                for lesson, frames in zip(row, _predict(row, recipe, llm), strict=True):
                    writer.add(lesson.id, lesson.sha256, frames)
                tick(len(row))
            interrupts.finishing()
    return TeachReport(path, len(untaught), len(lessons) - len(untaught), changed, len(mute))


def _rows(lessons: Sequence[Lesson], limit: int) -> Iterator[list[Lesson]]:
    """Lessons in rows of at most `limit` tokens, but one at least; in their order."""
    row: list[Lesson] = []
    room = limit
    for lesson in lessons:
        size = len(lesson.request) + len(lesson.response)
        if row and size > room:
            yield row
            row, room = [], limit
        row.append(lesson)
        room -= size
    yield row


@torch.inference_mode()
def _predict(lessons: Sequence[Lesson], recipe: Recipe, llm: FrozenLLM) -> list[np.ndarray]:
    """Rows (L, 2 K + 1) float32 along each response; the lessons share one packed row."""
    packed = pack([llm.segment(ids=each.request, answer=each.response) for each in lessons])
    predictors = predictions(packed, llm.hidden_states(packed), llm.output_weight)  # (N, H)
    losses = recipe.losses
    rows = distribution_rows(
        predictors, llm.output_weight, losses.kl_top_k, losses.kl_temperature
    )  # (N, 2 K + 1)
    ends = np.cumsum([len(lesson.response) for lesson in lessons])[:-1]
    return np.split(rows.cpu().numpy(), ends)
