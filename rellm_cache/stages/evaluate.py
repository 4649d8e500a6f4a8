"""evaluate. In: a run and a manifest. Out: recognition by head and LLM, CCC, and the report.

<run>/scores.json       all figures
<run>/report.html       the same for a reader, with curves and samples to listen to
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rellm_cache.batches import Example, Frames, ordered_batches
from rellm_cache.corpus.emotions import find_emotion
from rellm_cache.corpus.manifest import Utterance, read_manifests
from rellm_cache.devices import default_device
from rellm_cache.loading.collate import collate
from rellm_cache.loading.loader import BatchLoader
from rellm_cache.metrics.recognition import RecognitionScores
from rellm_cache.model.checkpoint import load_run
from rellm_cache.model.speech_llm import SpeechLLM, require_llm
from rellm_cache.progress import progress
from rellm_cache.stages.data import label_ids, make_examples, open_frames, require_frames
from rellm_cache.stages.generate import Generation, answer
from rellm_cache.stages.report import write_report
from rellm_cache.stages.scoring import HeadScores, predict, score_heads, score_labelled

BATCH = 16
LABEL_TOKENS = 12  # enough for "The emotion tone is surprise."


@dataclass(frozen=True)
class LLMScores:
    """Recognition by the LLM from the same speech embeddings.

    Attributes:
        likelihood: the label whose tokens are likeliest as the answer.
        generation: the first label named in a greedy answer.
        unparsable: share of greedy answers that name none.
    """

    likelihood: RecognitionScores
    generation: RecognitionScores
    unparsable: float


@dataclass(frozen=True)
class Scores:
    """All figures of one evaluation."""

    clips: int
    head: HeadScores
    llm: LLMScores | None
    losses: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """As `evaluate --json` prints it: `head` and `llm` parts, each with `ua` and the rest."""
        return {
            "clips": self.clips,
            "head": {**_plain(self.head.recognition), "ccc": self.head.ccc},
            "llm": None
            if self.llm is None
            else {
                **_plain(self.llm.likelihood),
                "generation": _plain(self.llm.generation),
                "unparsable": self.llm.unparsable,
            },
            "losses": self.losses,
        }


def _plain(scores: RecognitionScores | None) -> dict[str, Any]:
    return {} if scores is None else dataclasses.asdict(scores)


def evaluate(run: Path, manifest: Path, cache: Path, samples: int = 6) -> Scores:
    """Score a run on a manifest and write `scores.json` and `report.html` into it.

    Args:
        samples: utterances answered in the report, spread over emotions; 0 for none.

    Raises:
        RunError: `run` is not a finished run.
        StoreError: clips are absent from the cache.
    """
    device = default_device()
    utterances = read_manifests(manifest)
    recipe, model = load_run(run, device)
    frames = open_frames(recipe, cache)
    command = f"rellm extract {manifest} --recipe {run}/recipe.toml --cache {cache}"
    require_frames(frames, [u.id for u in utterances], command)
    examples = make_examples(utterances, recipe, model.llm)
    predictions = predict(model, examples, frames, device)
    llm = None
    if model.llm is not None:
        llm = _score_llm(model, examples, frames, device)
    scores = Scores(
        clips=len(utterances),
        head=score_heads(predictions, examples, recipe),
        llm=llm,
        losses=predictions.terms.means(),
    )
    (run / "scores.json").write_text(json.dumps(scores.to_json(), indent=2) + "\n", "utf-8")
    answers: list[Generation] = []
    chosen = choose_samples(utterances, samples)
    if model.llm is not None and chosen:
        batch = collate([Example(u.id) for u in chosen], frames).to(device)
        answers = answer(model, batch, chosen)
    write_report(run, recipe, scores.to_json(), chosen, answers)
    return scores


def choose_samples(utterances: Sequence[Utterance], count: int) -> list[Utterance]:
    """Utterances spread over emotions and speakers, always the same ones."""
    by_emotion: dict[str | None, list[Utterance]] = {}
    for utterance in utterances:
        by_emotion.setdefault(utterance.emotion, []).append(utterance)
    chosen: list[Utterance] = []
    for turn in range(count):
        for index, group in enumerate(by_emotion.values()):
            place = (turn * len(group) // 2 + index * 7) % len(group)
            if len(chosen) < count and group[place] not in chosen:
                chosen.append(group[place])
    return chosen


@torch.inference_mode()
def _score_llm(
    model: SpeechLLM, examples: Sequence[Example], frames: Frames, device: torch.device
) -> LLMScores | None:
    """Recognition by the LLM; None where no example has an emotion."""
    names = model.recipe.heads.emotions
    llm = require_llm(model.llm)
    labels = label_ids(model.recipe, llm)
    likely = np.zeros(len(examples), np.int64)
    named = np.zeros(len(examples), np.int64)
    loader = BatchLoader(examples, frames, device)
    plan = ordered_batches(loader.lengths, BATCH)
    with progress("Recognising", len(examples), "clips") as tick:
        for indices, batch in zip(plan, loader.batches(plan), strict=True):
            speech = model.speech(batch.to(device))
            likely[indices] = model.label_log_likelihoods(speech, labels).argmax(1).cpu().numpy()
            prompts = [
                model.prompt_embeddings(speech.one(i), "recognition") for i in range(len(indices))
            ]
            for index, reply in zip(
                indices, llm.continue_greedily(prompts, LABEL_TOKENS), strict=True
            ):
                found = find_emotion(reply.text, names)
                named[index] = -1 if found is None else names.index(found)
            tick(len(indices))
    true = np.array([e.emotion for e in examples])
    likelihood = score_labelled(true, likely, names)
    generation = score_labelled(true, named, names)
    if likelihood is None or generation is None:
        return None
    return LLMScores(likelihood, generation, float((named < 0).mean()))
