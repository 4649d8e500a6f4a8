"""What a text LLM teaches. In: utterances with responses. Out: requests, and the store of answers.

The teacher reads the transcript and the emotion in the request of step 1 and then the expected
response: what it predicts along it is what the student, who hears the speech, learns to predict.
`rellm respond --teacher` fills the store (`annotation/teacher`), training reads it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rellm_cache.annotation.responses import llm_config, request
from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import TeacherSpec, digest
from rellm_cache.corpus.manifest import Utterance, read_manifests
from rellm_cache.data.examples import response_ids
from rellm_cache.errors import ConfigError, ManifestError, StoreError
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import find_llm, load_chat, load_llm
from rellm_cache.llm.packing import pack
from rellm_cache.llm.prompts import ChatFormat
from rellm_cache.llm.teacher_distribution import distribution_rows
from rellm_cache.model.losses.token import predicting_states
from rellm_cache.store.format import StoreInfo, store_path
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.remote.mirror import sync_mirror
from rellm_cache.store.remote.mirror_paths import display_path
from rellm_cache.store.writer import StoreWriter, create_store
from rellm_cache.utils.console import counted, progress
from rellm_cache.utils.devices import default_device, describe_machine
from rellm_cache.utils.interrupts import Interrupts
from rellm_cache.utils.model_files import weights_digest


@dataclass(frozen=True)
class DistillationTarget:
    """One request and the response along which the teacher predicts.

    Attributes:
        id: of the utterance.
        request: token ids up to where the response starts.
        response: token ids, end tokens included if it is complete.
    """

    id: str
    request: tuple[int, ...]
    response: tuple[int, ...]

    @property
    def sha256(self) -> NDArray[np.uint8]:
        """(32,) digest of all token ids: another wording, response or tokenizer gives another."""
        return np.frombuffer(bytes.fromhex(digest([self.request, self.response])), np.uint8)


def teacher_spec(recipe: Recipe) -> TeacherSpec:
    """Whose predictions a recipe learns from; `ConfigError` without an LLM or where it is not."""
    llm, prompts, losses = llm_config(recipe), recipe.prompts, recipe.losses
    return TeacherSpec(
        model=llm.model,
        weights_sha256=weights_digest(find_llm(llm)),
        quantization=llm.quantization,
        template=llm.template,
        system=prompts.empathetic_system,
        prompt=prompts.expected_response,
        top_k=losses.kl_top_k,
        temperature=losses.kl_temperature,
    )


def make_targets(
    utterances: Sequence[Utterance], recipe: Recipe, chat: ChatFormat
) -> tuple[list[DistillationTarget], list[str]]:
    """Lessons of the utterances with a response, and the ids of those without words to teach from.

    Utterances without a response are in neither.
    """
    lessons, mute = [], []
    for utterance in utterances:
        if not utterance.response:
            continue
        user = request(utterance, recipe)
        if user is None:
            mute.append(utterance.id)
            continue
        ids = chat.text_prompt(recipe.prompts.empathetic_system, user)
        lessons.append(DistillationTarget(utterance.id, ids, response_ids(utterance, chat)))
    return lessons, mute


def find_outdated(
    lessons: Sequence[DistillationTarget], store: FeatureStore
) -> tuple[list[DistillationTarget], int]:
    """Lessons that a store does not hold as they are now, and how many of them it held before."""
    present = [lesson for lesson in lessons if lesson.id in store]
    stale = {x.id for x in present if store.audio_sha256(x.id) != x.sha256.tobytes()}
    return [x for x in lessons if x.id not in store or x.id in stale], len(stale)


def open_teacher_store(
    utterances: Sequence[Utterance], recipe: Recipe, chat: ChatFormat, cache: Path, manifest: Path
) -> FeatureStore:
    """The store that holds a lesson for every response of some utterances.

    Raises:
        StoreError: there is none, or it lacks lessons, or some are of another request or response.
        ConfigError: an utterance has a response, but no transcript or emotion.
    """
    command = f"{TeacherSpec.command} {manifest} --recipe … --cache {display_path(cache)}"
    lessons, mute = make_targets(utterances, recipe, chat)
    if mute:
        raise ConfigError(
            f"losses.response_kl = {recipe.losses.response_kl}: "
            f"{counted(len(mute), 'utterance has', 'utterances have')} a response "
            f"but no transcript or no emotion to ask the text LLM with, the first is "
            f"{mute[0]!r}; fill these in, or set losses.response_kl to 0"
        )
    spec = teacher_spec(recipe)
    path = store_path(cache, spec)
    if not path.exists():
        raise StoreError(
            f"{display_path(cache)}: losses.response_kl = {recipe.losses.response_kl} learns from "
            f"what {spec.model} predicts with these prompts, kl_top_k and kl_temperature, which is "
            f"not in the cache; add it with `{command}`"
        )
    store = FeatureStore(path)
    store.require([lesson.id for lesson in lessons], command)
    untaught, _ = find_outdated(lessons, store)
    if untaught:
        raise StoreError(
            f"{display_path(path)}: {len(untaught)} of {len(lessons)} responses or their requests "
            f"changed since, the first is that of {untaught[0].id!r}; bring them up to date with "
            f"`{command}`"
        )
    return store


@dataclass(frozen=True)
class TeacherReport:
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
) -> TeacherReport:
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
    lessons, mute = make_targets(read_manifests(manifest), recipe, load_chat(config))
    if not lessons:
        raise ManifestError(
            f"{manifest}: no utterance has a response, a transcript and an emotion; make responses "
            "with `rellm respond`"
        )
    spec = teacher_spec(recipe)
    licence = f"of {spec.model}: see its model card"
    info = StoreInfo(spec, spec.frame_size, licence)
    path = create_store(cache, info)
    untaught, changed = find_outdated(lessons, FeatureStore(path))
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
            for row in _rows(untaught, config.pack_length):
                for lesson, frames in zip(row, _predict(row, recipe, llm), strict=True):
                    writer.add(lesson.id, lesson.sha256, frames)
                tick(len(row))
            interrupts.finishing()
    return TeacherReport(path, len(untaught), len(lessons) - len(untaught), changed, len(mute))


def _rows(lessons: Sequence[DistillationTarget], limit: int) -> Iterator[list[DistillationTarget]]:
    """Lessons in rows of at most `limit` tokens, but one at least; in their order."""
    row: list[DistillationTarget] = []
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
def _predict(
    lessons: Sequence[DistillationTarget], recipe: Recipe, llm: FrozenLLM
) -> list[np.ndarray]:
    """Rows (L, 2 K + 1) float32 along each response; the lessons share one packed row."""
    packed = pack([llm.segment(ids=each.request, answer=each.response) for each in lessons])
    predictors = predicting_states(packed, llm.hidden_states(packed), llm.output_weight)  # (N, H)
    losses = recipe.losses
    rows = distribution_rows(
        predictors, llm.output_weight, losses.kl_top_k, losses.kl_temperature
    )  # (N, 2 K + 1)
    ends = np.cumsum([len(lesson.response) for lesson in lessons])[:-1]
    return np.split(rows.cpu().numpy(), ends)
