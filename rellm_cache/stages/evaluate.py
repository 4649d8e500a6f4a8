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
from rellm_cache.model.speech_llm import Speech, SpeechLLM, require_llm
from rellm_cache.progress import progress
from rellm_cache.stages.data import label_ids, make_examples, require_frames
from rellm_cache.stages.empathy_replies import EmpathyScores, score_answers
from rellm_cache.stages.generate import Generation, answer, answers
from rellm_cache.stages.report import write_report
from rellm_cache.stages.resources import Resources
from rellm_cache.stages.scoring import HeadScores, predict, score_heads, score_labelled

BATCH = 16
LABEL_TOKENS = 12  # enough for "The emotion tone is surprise."


@dataclass(frozen=True)
class LLMScores:
    """Recognition by the LLM from the same speech embeddings.

    Attributes:
        likelihood: the label whose tokens are likeliest as the answer.
        generation: the first label named in a greedy answer; None where none was asked for.
        unparsable: share of greedy answers that name none.
    """

    likelihood: RecognitionScores
    generation: RecognitionScores | None
    unparsable: float | None


@dataclass(frozen=True)
class Scores:
    """All figures of one evaluation."""

    clips: int
    head: HeadScores
    llm: LLMScores | None
    empathy: EmpathyScores | None
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
                "generation": _plain(self.llm.generation) or None,
                "unparsable": self.llm.unparsable,
            },
            "empathy": None if self.empathy is None else dataclasses.asdict(self.empathy),
            "losses": self.losses,
        }


def _plain(scores: RecognitionScores | None) -> dict[str, Any]:
    return {} if scores is None else dataclasses.asdict(scores)


def evaluate(
    run: Path,
    manifest: Path,
    cache: Path,
    samples: int = 6,
    in_words: bool = True,
    resources: Resources | None = None,
    empathy: Path | None = None,
) -> Scores:
    """Score a run on a manifest and write `scores.json` and `report.html` into it.

    Args:
        samples: utterances answered in the report, spread over emotions; 0 for none.
        in_words: the LLM also names each clip's emotion in words, which takes the longest.
        resources: the LLM and stores that other runs of this process use too.
        empathy: folder of an empathy scorer: then every utterance is answered and scored.

    Raises:
        RunError: `run` is not a finished run, or `empathy` no finished scorer.
        ConfigError: empathy is asked of a run without LLM.
        ManifestError: empathy is asked of utterances without transcripts.
        StoreError: clips are absent from the cache.
    """
    resources = resources or Resources()
    device = default_device()
    utterances = read_manifests(manifest)
    recipe, model = load_run(run, device, resources.llm)
    frames = resources.frames(recipe, cache)
    command = f"rellm extract {manifest} --recipe {run}/recipe.toml --cache {cache}"
    require_frames(frames, [u.id for u in utterances], command)
    examples = make_examples(utterances, recipe, model.llm)
    predictions = predict(model, examples, frames, device)
    llm = None
    if model.llm is not None:
        llm = _score_llm(model, examples, frames, device, in_words)
    scores = Scores(
        clips=len(utterances),
        head=score_heads(predictions, examples, recipe),
        llm=llm,
        empathy=None if empathy is None else _score_empathy(model, utterances, frames, empathy),
        losses=predictions.terms.means(),
    )
    (run / "scores.json").write_text(json.dumps(scores.to_json(), indent=2) + "\n", "utf-8")
    shown: list[Generation] = []
    chosen = choose_samples(utterances, samples)
    if model.llm is not None and chosen:
        batch = collate([Example(u.id) for u in chosen], frames).to(device)
        shown = answer(model, batch, chosen)
    write_report(run, recipe, scores.to_json(), chosen, shown)
    return scores


def _score_empathy(
    model: SpeechLLM, utterances: Sequence[Utterance], frames: Frames, folder: Path
) -> EmpathyScores:
    """Answer every utterance and score the answers."""
    require_llm(model.llm)
    found: list[Generation] = []
    with progress("Answering", len(utterances), "clips") as tick:
        for generation in answers(model, utterances, frames, BATCH, default_device()):
            found.append(generation)
            tick()
    return score_answers(folder, found)


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
    model: SpeechLLM,
    examples: Sequence[Example],
    frames: Frames,
    device: torch.device,
    in_words: bool,
) -> LLMScores | None:
    """Recognition by the LLM; None where no example has an emotion."""
    names = model.recipe.heads.emotions
    labels = label_ids(model.recipe, require_llm(model.llm))
    likely = np.zeros(len(examples), np.int64)
    named = np.zeros(len(examples), np.int64)
    loader = BatchLoader(examples, frames, device)
    plan = ordered_batches(loader.lengths, BATCH)
    with progress("Recognising", len(examples), "clips") as tick:
        for indices, batch in zip(plan, loader.batches(plan), strict=True):
            speech = model.speech(batch.to(device))
            likely[indices] = model.label_log_likelihoods(speech, labels).argmax(1).cpu().numpy()
            if in_words:
                named[indices] = _name_emotions(model, speech)
            tick(len(indices))
    true = np.array([e.emotion for e in examples])
    likelihood = score_labelled(true, likely, names)
    if likelihood is None:
        return None
    if not in_words:
        return LLMScores(likelihood, None, None)
    return LLMScores(likelihood, score_labelled(true, named, names), float((named < 0).mean()))


def _name_emotions(model: SpeechLLM, speech: Speech) -> list[int]:
    """Index of the emotion that the LLM's answer names, for each utterance; -1 for none."""
    names = model.recipe.heads.emotions
    replies = model.answers(speech, "recognition", LABEL_TOKENS)
    found = [find_emotion(reply.text, names) for reply in replies]
    return [-1 if name is None else names.index(name) for name in found]
