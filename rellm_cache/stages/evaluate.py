"""evaluate. In: a run and a manifest. Out: recognition by head and LLM, CCC, and the report.

<out>/scores.json       all figures, and what data they are of
<out>/predictions.csv   what the head and the LLM say of each utterance
<out>/report.html       the same for a reader, with curves and samples to listen to
<run>/README.md         the model card, with these scores, where `out` is the run itself
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rellm_cache.batches import Frames
from rellm_cache.config import Recipe
from rellm_cache.corpus.manifest import DIMENSIONS, Utterance, read_manifests
from rellm_cache.errors import RunError
from rellm_cache.metrics.bootstrap import concordance_interval
from rellm_cache.metrics.recognition import RecognitionScores
from rellm_cache.model.checkpoint import run_recipe
from rellm_cache.progress import progress
from rellm_cache.stages.answering import Generation
from rellm_cache.stages.card import SCORES, write_card
from rellm_cache.stages.data import emotion_index, require_frames
from rellm_cache.stages.empathy_replies import EmpathyScores, score_answers
from rellm_cache.stages.listening import Listener
from rellm_cache.stages.provenance import TRAINING, DataSummary, summarise_data
from rellm_cache.stages.publish import SUMS, is_published
from rellm_cache.stages.reading import Reader
from rellm_cache.stages.recognising import NO_LABEL, Judgement, LLMScores, score_labels
from rellm_cache.stages.report import write_report
from rellm_cache.stages.resources import Resources
from rellm_cache.stages.scoring import HeadScores
from rellm_cache.store.syncing import write_table, write_whole

PREDICTIONS = "predictions.csv"
BATCH = 16


@dataclass(frozen=True)
class Scores:
    """All figures of one evaluation, and the data they are of.

    Attributes:
        ccc_intervals: dimension → the ends of the CCC's 95 % bootstrap interval over clips.
    """

    data: DataSummary
    head: HeadScores
    ccc_intervals: dict[str, tuple[float, float]]
    llm: LLMScores | None
    empathy: EmpathyScores | None
    losses: dict[str, float]

    @property
    def clips(self) -> int:
        """That were scored."""
        return self.data.clips

    def to_json(self) -> dict[str, Any]:
        """As `evaluate --json` prints it: `head` and `llm` parts, each with `ua` and the rest."""
        return {
            "clips": self.clips,
            "data": dataclasses.asdict(self.data),
            "head": {
                **_plain(self.head.recognition),
                "ccc": self.head.ccc,
                "ccc_intervals": self.ccc_intervals,
            },
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
    out: Path | None = None,
) -> Scores:
    """Score a run on a manifest; write `scores.json`, `predictions.csv`, `report.html` and its
    card.

    Args:
        samples: utterances answered in the report, spread over emotions; 0 for none.
        in_words: the LLM also names each clip's emotion in words, which takes the longest.
        resources: the LLM and stores that other runs of this process use too.
        empathy: folder of an empathy scorer: then every utterance is answered and scored.
        out: folder to write to; None for the run itself, whose card then has the scores.

    Raises:
        RunError: `run` is not a finished run, or a published one that would be written into, or
            `empathy` is no finished scorer.
        ConfigError: empathy is asked of a run without LLM.
        ManifestError: empathy is asked of utterances without transcripts, or the run's model
            reads and an utterance has none.
        StoreError: clips are absent from the cache.
    """
    resources = resources or Resources()
    out = out or run
    own = out.resolve() == run.resolve()
    if own and is_published(run):
        raise RunError(
            f"{run}: is a published folder, whose {SUMS} would no longer hold; give another folder "
            "for the scores with --out"
        )
    utterances = read_manifests(manifest)
    data = summarise_data(utterances, manifest)
    recipe = run_recipe(run)
    model: Reader | Listener
    if recipe.text is not None:
        model = Reader(recipe, cache, resources)
    else:
        model = Listener(run, resources, partial(_open_frames, run, manifest, cache, resources))
    judgement = model.judge(utterances, in_words)
    labels = judgement.llm
    true = np.array([emotion_index(u, recipe) for u in utterances])
    scores = Scores(
        data=data,
        head=judgement.head_scores,
        ccc_intervals=ccc_intervals(utterances, judgement),
        llm=None if labels is None else score_labels(labels, true, recipe.heads.emotions),
        empathy=None if empathy is None else _score_empathy(model, utterances, empathy),
        losses=judgement.losses,
    )
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / SCORES, json.dumps(scores.to_json(), indent=2) + "\n")
    write_predictions(out / PREDICTIONS, utterances, judgement, recipe.heads.emotions)
    if own and (run / TRAINING).exists():
        write_card(run)
    chosen = choose_samples(utterances, samples) if recipe.needs_llm else []
    shown = list(model.answers(chosen, BATCH)) if chosen else []
    write_report(run, out, recipe, scores.to_json(), chosen, shown)
    return scores


def _open_frames(
    run: Path,
    manifest: Path,
    cache: Path,
    resources: Resources,
    recipe: Recipe,
    utterances: Sequence[Utterance],
) -> Frames:
    frames = resources.frames(recipe, cache)
    command = f"rellm extract {manifest} --recipe {run}/recipe.toml --cache {cache}"
    require_frames(frames, [u.id for u in utterances], command)
    return frames


def ccc_intervals(
    utterances: Sequence[Utterance], judgement: Judgement
) -> dict[str, tuple[float, float]]:
    """Bootstrap interval of each CCC that there is, over the clips that have dimensions."""
    rows = [i for i, utterance in enumerate(utterances) if utterance.vad is not None]
    if judgement.dimensions is None or not judgement.head_scores.ccc:
        return {}
    true = np.array([utterances[i].vad for i in rows])  # (n, 3)
    said = judgement.dimensions[rows].astype(np.float64)
    found = {}
    for column, name in enumerate(DIMENSIONS):
        interval = concordance_interval(true[:, column], said[:, column])
        found[name] = (interval.low, interval.high)
    return found


def _score_empathy(
    model: Reader | Listener, utterances: Sequence[Utterance], folder: Path
) -> EmpathyScores:
    """Answer every utterance and score the answers."""
    found: list[Generation] = []
    with progress("Answering", len(utterances), "clips") as tick:
        for generation in model.answers(utterances, BATCH):
            found.append(generation)
            tick()
    return score_answers(folder, found)


def write_predictions(
    path: Path, utterances: Sequence[Utterance], judgement: Judgement, names: tuple[str, ...]
) -> None:
    """A row an utterance: its true emotion, what the head and the LLM say, and the dimension head's
    arousal, dominance, valence; empty for nothing."""
    likely = named = None
    if judgement.llm is not None:
        likely, named = judgement.llm.likely, judgement.llm.named
    said = {"head": judgement.head, "llm": likely, "llm_in_words": named}
    dimensions = judgement.dimensions
    rows = []
    for place, utterance in enumerate(utterances):
        labels = [
            "" if found is None or found[place] == NO_LABEL else names[found[place]]
            for found in said.values()
        ]
        felt = [""] * 3 if dimensions is None else [f"{v:.4f}" for v in dimensions[place]]
        rows.append([utterance.id, utterance.speaker, utterance.emotion or "", *labels, *felt])
    write_table(path, ["id", "speaker", "emotion", *said, *DIMENSIONS], rows)


def choose_samples(utterances: Sequence[Utterance], count: int) -> list[Utterance]:
    """Utterances spread over emotions and speakers, always the same ones."""
    by_emotion: dict[str | None, list[Utterance]] = {}
    for utterance in utterances:
        by_emotion.setdefault(utterance.emotion, []).append(utterance)
    chosen: list[Utterance] = []
    for turn in range(count):
        for index, group in enumerate(by_emotion.values()):
            start = (turn * len(group) // 2 + index * 7) % len(group)
            left = [u for u in (*group[start:], *group[:start]) if u not in chosen]
            if len(chosen) < count and left:
                chosen.append(left[0])
    return chosen
