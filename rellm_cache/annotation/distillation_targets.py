"""What a text LLM teaches. In: utterances with responses. Out: requests, and the store of answers.

The teacher reads the transcript and the emotion in the request of step 1 and then the expected
response: what it predicts along it is what the student, who hears the speech, learns to predict.
`rellm respond --teacher` fills the store (`annotation/teacher`), training reads it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rellm_cache.annotation.responses import llm_config, request
from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import TeacherSpec, digest
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.data.examples import response_ids
from rellm_cache.errors import ConfigError, StoreError
from rellm_cache.llm.loading import find_llm
from rellm_cache.llm.prompts import ChatFormat
from rellm_cache.store.format import store_path
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.remote.mirror_paths import display_path
from rellm_cache.utils.console import counted
from rellm_cache.utils.model_files import weights_digest


@dataclass(frozen=True)
class Lesson:
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
        weights=weights_digest(find_llm(llm)),
        quantization=llm.quantization,
        template=llm.template,
        system=prompts.empathetic_system,
        prompt=prompts.expected_response,
        top_k=losses.kl_top_k,
        temperature=losses.kl_temperature,
    )


def make_lessons(
    utterances: Sequence[Utterance], recipe: Recipe, chat: ChatFormat
) -> tuple[list[Lesson], list[str]]:
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
        lessons.append(Lesson(utterance.id, ids, response_ids(utterance, chat)))
    return lessons, mute


def find_untaught(lessons: Sequence[Lesson], store: FeatureStore) -> tuple[list[Lesson], int]:
    """Lessons that a store does not hold as they are now, and how many of them it held before."""
    present = [lesson for lesson in lessons if lesson.id in store]
    stale = {x.id for x in present if store.audio_sha256(x.id) != x.sha256.tobytes()}
    return [x for x in lessons if x.id not in store or x.id in stale], len(stale)


def open_teacher(
    utterances: Sequence[Utterance], recipe: Recipe, chat: ChatFormat, cache: Path, manifest: Path
) -> FeatureStore:
    """The store that holds a lesson for every response of some utterances.

    Raises:
        StoreError: there is none, or it lacks lessons, or some are of another request or response.
        ConfigError: an utterance has a response, but no transcript or emotion.
    """
    command = f"{TeacherSpec.command} {manifest} --recipe … --cache {display_path(cache)}"
    lessons, mute = make_lessons(utterances, recipe, chat)
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
    untaught, _ = find_untaught(lessons, store)
    if untaught:
        raise StoreError(
            f"{display_path(path)}: {len(untaught)} of {len(lessons)} responses or their requests "
            f"changed since, the first is that of {untaught[0].id!r}; bring them up to date with "
            f"`{command}`"
        )
    return store
