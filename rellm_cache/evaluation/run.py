"""evaluate. In: a run and a manifest. Out: recognition by head and LLM, CCC, and the report.

<out>/scores.json       all figures, and what data they are of
<out>/predictions.csv   what the head and the LLM say of each utterance
<out>/evaluated.jsonl   the same with answers and their empathy, and what each was made from
<out>/report.html       the same for a reader, with curves and samples to listen to
<run>/README.md         the model card, with these scores, where `out` is the run itself

A killed call goes on where it was. Of a finished one only what has changed since is asked again.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.empathy.scorer_folder import load_card
from rellm_cache.errors import ConfigError, ManifestError, RunError
from rellm_cache.evaluation.evaluator import Examination
from rellm_cache.evaluation.report import REPORT, render_report
from rellm_cache.evaluation.scores import Scores, make_scores, prediction_rows
from rellm_cache.runs.card import CARD, SCORES, read_card, render_card
from rellm_cache.runs.provenance import TRAINING, summarise_data
from rellm_cache.runs.publish import SUMS, is_published
from rellm_cache.runs.shared_models import Resources
from rellm_cache.runs.weights import RECIPE
from rellm_cache.utils.atomic_files import csv_text, update_text
from rellm_cache.utils.console import counted, say

PREDICTIONS = "predictions.csv"


@dataclass(frozen=True)
class Asked:
    """What an evaluation asks of a run beside the heads and the label that the LLM finds likeliest.

    Attributes:
        samples: utterances answered in the report, spread over emotions; 0 for none.
        in_words: the LLM also names each clip's emotion in words, which takes the longest.
        empathy: folder of an empathy scorer: then every utterance that has a transcript is answered
            and the answer scored.
    """

    samples: int = 6
    in_words: bool = True
    empathy: Path | None = None


def evaluate(
    run: Path,
    manifest: Path,
    cache: Path,
    asked: Asked = Asked(),
    out: Path | None = None,
    resources: Resources | None = None,
) -> Scores:
    """Score a run on a manifest; write `scores.json`, `predictions.csv`, `report.html` and its
    card.

    What the run says of each utterance is kept in `evaluated.jsonl` with what it was made from: the
    same call again asks nothing, makes the figures from there, and says that nothing is to do.

    Args:
        out: folder to write to; None for the run itself, whose card then has the scores.
        resources: the LLM and stores that other runs of this process use too.

    Raises:
        RunError: `run` is not a finished run, `out` is a published one or another run, or
            `asked.empathy` is no finished scorer.
        ConfigError: empathy is asked of a run without LLM.
        ManifestError: the manifest cannot be read; empathy is asked and no utterance has a
            transcript, or the run's model reads and one has none.
        StoreError: clips are absent from the cache.
        JournalError: a line of `evaluated.jsonl` cannot be read.
    """
    out = out or run
    _check_out(run, out)
    examination = Examination(run, manifest, cache, out, resources or Resources())
    recipe, utterances = examination.recipe, examination.utterances
    spoken = [u for u in utterances if u.text.strip()]
    if asked.empathy is not None:
        _check_empathy(run, recipe, asked.empathy)
        if not spoken:
            raise ManifestError(
                f"{manifest}: no utterance has a transcript (text), which stands for the seeker's "
                "post; add transcripts, or leave empathy out"
            )
    judgement = examination.judge(asked.in_words)
    empathy = None
    if asked.empathy is not None:
        empathy = examination.empathy(spoken, asked.empathy)
    chosen = choose_samples(utterances, asked.samples) if recipe.needs_llm else []
    shown = examination.answers(chosen)
    data = summarise_data(utterances, manifest)
    scores = make_scores(data, utterances, judgement, recipe, empathy)
    figures = scores.to_json()
    out.mkdir(parents=True, exist_ok=True)
    written = [
        examination.finish(),
        update_text(out / SCORES, json.dumps(figures, indent=2) + "\n"),
        update_text(out / PREDICTIONS, csv_text(*prediction_rows(utterances, judgement))),
        update_text(out / REPORT, render_report(run, recipe, figures, chosen, shown)),
    ]
    if _is_own(run, out) and (run / TRAINING).exists():
        written.append(update_text(run / CARD, render_card(read_card(run))))
    if not any(written):
        clips = counted(len(utterances), "clip is", "clips are")
        say(f"{out}: nothing to do, {clips} scored")
    return scores


def _is_own(run: Path, out: Path) -> bool:
    """Whether scores go into the run's own folder."""
    return out.resolve() == run.resolve()


def _check_out(run: Path, out: Path) -> None:
    """Raise `RunError` where scores of a run would be taken for something else."""
    if is_published(out):
        raise RunError(
            f"{out}: is a published folder, whose {SUMS} would no longer hold; give another folder "
            "for the scores with --out"
        )
    if not _is_own(run, out) and (out / RECIPE).exists():
        raise RunError(
            f"{out}: is the folder of another run, whose scores these are not; give another folder "
            "for the scores with --out"
        )


def _check_empathy(run: Path, recipe: Recipe, scorer: Path) -> None:
    """Raise what would fail after all is answered, before anything is asked."""
    if not recipe.needs_llm:
        raise ConfigError(
            f"{run}: recipe {recipe.name!r} has no LLM, so there are no answers to score for "
            "empathy; leave empathy out, or evaluate a run of a recipe that answers, as `small`"
        )
    load_card(scorer)


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
