"""Teacher store for distillation: next-token distributions of a text LLM along the responses.

The teacher reads the request of step 1, with transcript and emotion, and the expected response.
`rellm respond --teacher` stores its prediction at each token of the response; the speech model
learns to predict the same (`losses.response_kl`). A killed call resumes; changed responses are
processed again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rellm_cache.annotation.responses import response_request
from rellm_cache.config.schema import LLMConfig, LossesConfig, PromptsConfig, Recipe
from rellm_cache.config.specs import TeacherSpec, digest
from rellm_cache.corpus.manifest import Utterance, read_manifests
from rellm_cache.data.examples import has_response, response_ids
from rellm_cache.errors import ConfigError, ManifestError, StoreError
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import find_llm, load_chat, load_llm
from rellm_cache.llm.packed_rows import pack
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
    """A request and a response; the teacher predicts each token of the response."""

    id: str  # id of the utterance
    request: tuple[int, ...]  # token ids up to the start of the response
    response: tuple[int, ...]  # token ids, with the end tokens if the response is complete

    @property
    def sha256(self) -> NDArray[np.uint8]:
        """(32,) digest of all token ids; it changes with the prompt, response and tokenizer."""
        return np.frombuffer(bytes.fromhex(digest([self.request, self.response])), np.uint8)


@dataclass(frozen=True)
class TeacherReport:
    """What `write_teacher_store` did."""

    path: Path  # folder of the store
    written: int  # responses processed by the teacher in this call
    present: int  # responses that were up to date in the store
    changed: int  # number of written responses that replace an outdated one
    skipped: int  # utterances with a response, but without a transcript or an emotion


def teacher_spec(llm: LLMConfig, prompts: PromptsConfig, losses: LossesConfig) -> TeacherSpec:
    """The teacher of a recipe; `ConfigError` if its LLM cannot be found."""
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


def make_distillation_targets(
    utterances: Sequence[Utterance], spec: TeacherSpec, chat: ChatFormat
) -> tuple[list[DistillationTarget], list[str]]:
    """Targets of utterances with a response, and ids of those that lack transcript or emotion.

    Utterances without a response are in neither list.
    """
    targets, skipped = [], []
    for utterance in utterances:
        if not has_response(utterance):
            continue
        user = response_request(utterance, spec.prompt)
        if user is None:
            skipped.append(utterance.id)
            continue
        request = chat.text_prompt(spec.system, user)
        targets.append(DistillationTarget(utterance.id, request, response_ids(utterance, chat)))
    return targets, skipped


def find_outdated(
    targets: Sequence[DistillationTarget], store: FeatureStore
) -> tuple[list[DistillationTarget], int]:
    """Targets that are missing or outdated in a store, and the number of outdated ones."""
    present = [target for target in targets if target.id in store]
    changed = {t.id for t in present if store.audio_sha256(t.id) != t.sha256.tobytes()}
    return [t for t in targets if t.id not in store or t.id in changed], len(changed)


def open_teacher_store(
    utterances: Sequence[Utterance],
    spec: TeacherSpec,
    chat: ChatFormat,
    cache: Path,
    manifest: Path,
) -> FeatureStore:
    """Open the store and check that it has an up-to-date target for every response.

    Raises:
        StoreError: there is no such store, or targets are missing or outdated.
        ConfigError: an utterance has a response, but no transcript or emotion.
    """
    command = f"{TeacherSpec.command} {manifest} --recipe … --cache {display_path(cache)}"
    targets, skipped = make_distillation_targets(utterances, spec, chat)
    if skipped:
        raise ConfigError(
            f"losses.response_kl is above 0, but "
            f"{counted(len(skipped), 'utterance has', 'utterances have')} a response but no "
            f"transcript or no emotion for the teacher's request, the first is {skipped[0]!r}; "
            "add these to the manifest, or set losses.response_kl to 0"
        )
    path = store_path(cache, spec)
    if not path.exists():
        raise StoreError(
            f"{display_path(cache)}: losses.response_kl is above 0 and learns from the "
            f"predictions of {spec.model} with these prompts, kl_top_k and kl_temperature, which "
            f"are not in the cache; add them with `{command}`"
        )
    store = FeatureStore(path)
    store.require([target.id for target in targets], command)
    outdated, _ = find_outdated(targets, store)
    if outdated:
        raise StoreError(
            f"{display_path(path)}: {len(outdated)} of {len(targets)} responses or their requests "
            f"have changed, the first is that of {outdated[0].id!r}; update them with `{command}`"
        )
    return store


def write_teacher_store(
    manifest: Path, recipe: Recipe, cache: Path, device: torch.device | None = None
) -> TeacherReport:
    """Store the text LLM's predictions at every token of a manifest's expected responses.

    Args:
        cache: root of the stores; for a URL, the folder that `open_mirror` returns.

    Raises:
        ConfigError: the recipe has no LLM, or its vocabulary is too small for `kl_top_k`.
        ManifestError: the manifest cannot be read, or has no responses.
        StoreError: writing failed; the store keeps every part committed before.
    """
    sync_mirror(cache)
    config = recipe.require_llm()
    spec = teacher_spec(config, recipe.prompts, recipe.losses)
    targets, skipped = make_distillation_targets(read_manifests(manifest), spec, load_chat(config))
    if not targets:
        raise ManifestError(
            f"{manifest}: no utterance has a response, a transcript and an emotion; make responses "
            "with `rellm respond`"
        )
    info = StoreInfo(spec, spec.frame_size, f"of {spec.model}: see its model card")
    path = create_store(cache, info)
    outdated, changed = find_outdated(targets, FeatureStore(path))
    if outdated:
        llm = load_llm(config, device or default_device())
        vocabulary = len(llm.output_weight)
        if spec.top_k >= vocabulary:
            raise ConfigError(
                f"losses.kl_top_k = {spec.top_k}: expected less than the {vocabulary} tokens of "
                f"{spec.model}"
            )
        with (
            Interrupts() as interrupts,
            progress("Teacher", len(outdated), "responses") as tick,
            StoreWriter(cache, info, writers=[describe_machine(llm.device, llm.dtype)]) as writer,
        ):
            for row in _rows(outdated, config.pack_length):
                for target, frames in zip(row, _predict(row, spec, llm), strict=True):
                    writer.add(target.id, target.sha256, frames)
                tick(len(row))
            interrupts.finishing()
    return TeacherReport(path, len(outdated), len(targets) - len(outdated), changed, len(skipped))


def _rows(
    targets: Sequence[DistillationTarget], pack_length: int
) -> Iterator[list[DistillationTarget]]:
    """Targets in order, packed into rows of at most `pack_length` tokens or of one target."""
    row: list[DistillationTarget] = []
    free = pack_length
    for target in targets:
        size = len(target.request) + len(target.response)
        if row and size > free:
            yield row
            row, free = [], pack_length
        row.append(target)
        free -= size
    yield row


@torch.inference_mode()
def _predict(
    targets: Sequence[DistillationTarget], spec: TeacherSpec, llm: FrozenLLM
) -> list[np.ndarray]:
    """(L, 2 K + 1) float32 for each response of L tokens; the targets share one packed row."""
    packed = pack([llm.segment(ids=t.request, answer=t.response) for t in targets])
    predictors = predicting_states(packed, llm.hidden_states(packed), llm.output_weight)  # (N, H)
    weight = llm.output_weight
    rows = distribution_rows(predictors, weight, spec.top_k, spec.temperature)  # (N, 2 K + 1)
    ends = np.cumsum([len(target.response) for target in targets])[:-1]
    return np.split(rows.cpu().numpy(), ends)
