"""Evaluation of a run on a manifest: scores, predictions, report and model card.

<out>/scores.json       all scores, a summary of the data, and the path of the manifest
<out>/predictions.csv   emotions by head and LLM, and dimensions, for each utterance
<out>/evaluated.jsonl   the same with answers, empathy levels and fingerprints
<out>/report.html       scores, training curves and samples to listen to
<out>/voicebench.jsonl  or other files of `exports`, with the answers
<run>/README.md         the model card with the scores, if `out` is the run itself

A killed call can continue; a repeated call computes only what has changed.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import Utterance, manifest_files
from rellm_cache.data.examples import describe_unlisted
from rellm_cache.empathy.scorer_folder import load_card
from rellm_cache.errors import ConfigError, ManifestError, RunError
from rellm_cache.evaluation.exports import Format, require_transcripts, write_answers
from rellm_cache.evaluation.predictions import (
    EVALUATED,
    PREDICTIONS,
    PredictionLog,
    Wanted,
    prediction_rows,
)
from rellm_cache.evaluation.report import REPORT, render_report
from rellm_cache.evaluation.scores import Scores, make_scores
from rellm_cache.runs.card import CARD, MANIFEST, SCORES, read_card, render_card
from rellm_cache.runs.provenance import (
    TRAINING,
    DataSummary,
    load_training,
    run_cache,
    summarize_data,
)
from rellm_cache.runs.publish import is_published
from rellm_cache.runs.shared_models import SharedModels
from rellm_cache.runs.weights import RECIPE
from rellm_cache.utils.atomic_files import csv_text, update_text
from rellm_cache.utils.checksums import SUMS, recorded
from rellm_cache.utils.console import counted, say
from rellm_cache.utils.devices import use_threads
from rellm_cache.utils.json_files import load
from rellm_cache.utils.overwriting import overwriting, refuse_input
from rellm_cache.workers.options import Shard, WorkerOptions
from rellm_cache.workers.shards import Output, hold_results


@dataclass(frozen=True)
class EvaluationOptions:
    """What an evaluation computes besides predictions of the heads and likeliest labels of the LLM.

    Attributes:
        samples: number of utterances with answers in the report; 0 for none.
        in_words: also let the LLM answer each emotion in words; the slowest part.
        empathy: folder of an empathy scorer, or None. With it, every utterance with a transcript is
            answered and the answer scored.
        overwrite: replace the scores of another manifest.
        orders: orders of the options over which the LLM's label probabilities are averaged.
        calibrate: divide these probabilities by those after an empty speech.
        export: also answer every utterance and write the answers in this form.
    """

    samples: int = 6
    in_words: bool = True
    empathy: Path | None = None
    overwrite: bool = False
    orders: int = 1
    calibrate: bool = False
    export: Format | None = None

    @property
    def wanted(self) -> Wanted:
        """What the LLM predicts."""
        return Wanted(self.in_words, self.orders, self.calibrate)


def evaluate(
    run: Path,
    manifest: Path,
    cache: Path | None = None,
    options: EvaluationOptions = EvaluationOptions(),
    out: Path | None = None,
    resources: SharedModels | None = None,
) -> Scores:
    """Score a run on a manifest, and write the files listed above.

    Args:
        cache: root of the stores; None for the cache that the run was trained from.
        out: folder to write to; None for the run itself, whose card then has the scores.
        resources: LLM and stores shared with other runs of this process.

    Raises:
        RunError: `run` is not finished, its cache is missing, `out` is a published run or another
            run or has the scores of another manifest, or `options.empathy` is not a finished
            scorer.
        ConfigError: empathy or an export is requested for a run without an LLM, or orders of
            options for prompts that list none.
        ManifestError: the manifest cannot be read; empathy is requested and no utterance has a
            transcript; or an utterance for a text model or an export has none.
        StoreError: the cache lacks clips.
        JournalError: a line of `evaluated.jsonl` cannot be read.
        RellmError: another process writes `out`.
    """
    out = out or run
    where = _Where(run, manifest, cache, out)
    with _opened(where, options, resources or SharedModels(), None) as (log, _):
        return _evaluate(log, run, manifest, options, out)


def evaluate_by_workers(
    run: Path,
    manifest: Path,
    cache: Path | None,
    options: EvaluationOptions,
    out: Path | None,
    divided: WorkerOptions,
) -> Scores | None:
    """As `evaluate`, with predictions and answers by workers, or those of a shard alone.

    Empathy and the report are made by this process at the end; of several shards, by the last one.

    Args:
        divided: workers and shard.

    Returns:
        The scores; None if other shards have clips left.
    """
    out = out or run
    where = _Where(run, manifest, cache, out)
    with _opened(where, options, SharedModels(), divided.shard) as (log, output):
        answered = {u.id for u in _answered(log, options)}
        if divided != WorkerOptions():
            log.predict_rows(options.wanted, answered, divided)
            if unfinished := log.join(options.wanted, answered, output):
                say(f"{out / EVALUATED}: {unfinished}")
                return None
        return _evaluate(log, run, manifest, options, out)


@dataclass(frozen=True)
class _Where:
    """What an evaluation reads, and the folder that it writes."""

    run: Path
    manifest: Path
    cache: Path | None
    out: Path


@contextmanager
def _opened(
    where: _Where, options: EvaluationOptions, resources: SharedModels, shard: Shard | None
) -> Iterator[tuple[PredictionLog, Output]]:
    """Hold the folder, or a part of it; check what is asked before anything is predicted."""
    run, manifest, out = where.run, where.manifest, where.out
    _check_out(run, out)
    if not options.overwrite:
        if not _is_own(run, out) and (out / SCORES).exists() and not (out / EVALUATED).exists():
            raise overwriting(out / SCORES, "of `rellm evaluate`")
        for name in (EVALUATED, SCORES, PREDICTIONS, REPORT):
            refuse_input(out / name, manifest_files(manifest))
    with hold_results(out / EVALUATED, shard) as output:
        cache = where.cache or run_cache(run)
        log = PredictionLog(run, manifest, cache, out, resources, shard)
        _check(log, where, options)
        yield log, output


def _check(log: PredictionLog, where: _Where, options: EvaluationOptions) -> None:
    """Check that what is asked can be made of the run and the manifest; errors as `evaluate`."""
    recipe, utterances, run, manifest = log.recipe, log.utterances, where.run, where.manifest
    for note in describe_unlisted(utterances, recipe.heads.emotions):
        say(f"{manifest}: {note}; accuracy and UA leave them out")
    if not options.overwrite:
        _require_same_manifest(where.out / SCORES, manifest, summarize_data(utterances, manifest))
    if options.orders > 1 or options.calibrate:
        _require_answers(run, recipe, "labels of an LLM to average or calibrate")
    if options.export is not None:
        _require_answers(run, recipe, "answers to export")
        require_transcripts(options.export, utterances, manifest)
    if options.empathy is not None:
        _check_empathy(run, recipe, options.empathy)
        if not any(u.text.strip() for u in utterances):
            raise ManifestError(
                f"{manifest}: no utterance has a transcript (text), which the scorer needs as the "
                "seeker's post; add transcripts, or leave empathy out"
            )


def _evaluate(
    log: PredictionLog, run: Path, manifest: Path, options: EvaluationOptions, out: Path
) -> Scores:
    recipe, data = log.recipe, summarize_data(log.utterances, manifest)
    with use_threads("models" if recipe.needs_llm else "heads"):
        predictions = log.predict(options.wanted)
    utterances = log.utterances  # without those that were dropped
    for name, reason in log.dropped.items():
        say(f"{name}: left out, {reason}")
    empathy = None
    if options.empathy is not None:
        empathy = log.empathy(_spoken(utterances), options.empathy)
    chosen = choose_samples(utterances, options.samples) if recipe.needs_llm else []
    shown = log.answers(chosen)
    if options.export is not None:
        write_answers(out, options.export, utterances, log.answers(utterances))
    scores = make_scores(data, utterances, predictions, recipe.heads.emotions, empathy)
    if (run / TRAINING).exists():
        scores = dataclasses.replace(scores, layer_weights=load_training(run).layer_weights)
    figures, place = scores.to_json(), str(manifest.absolute())
    if log.dropped:
        figures["dropped"] = log.dropped
    page = render_report(run, recipe, figures, chosen, shown)
    with recorded(out, EVALUATED, SCORES, PREDICTIONS, REPORT, CARD):
        written = [
            log.finish(),
            update_text(out / SCORES, json.dumps({**figures, MANIFEST: place}, indent=2) + "\n"),
            update_text(out / PREDICTIONS, csv_text(*prediction_rows(utterances, predictions))),
            update_text(out / REPORT, page),
        ]
        if _is_own(run, out) and (run / TRAINING).exists():
            written.append(update_text(run / CARD, render_card(read_card(run))))
    if not any(written):
        clips = counted(len(utterances), "clip is", "clips are")
        say(f"{out}: nothing to do, {clips} scored")
    return scores


def _answered(log: PredictionLog, options: EvaluationOptions) -> list[Utterance]:
    """The utterances that are answered, if none of them is too long."""
    if options.export is not None:
        return log.utterances
    chosen = choose_samples(log.utterances, options.samples)
    return [*chosen, *(_spoken(log.utterances) if options.empathy is not None else ())]


def _spoken(utterances: Sequence[Utterance]) -> list[Utterance]:
    """The utterances with a transcript."""
    return [u for u in utterances if u.text.strip()]


def _is_own(run: Path, out: Path) -> bool:
    return out.resolve() == run.resolve()


def _check_out(run: Path, out: Path) -> None:
    if is_published(out):
        raise RunError(
            f"{out}: is a published folder, and {SUMS} would no longer be right; give another "
            "folder for the scores with --out"
        )
    if not _is_own(run, out) and (out / RECIPE).exists():
        raise RunError(
            f"{out}: is the folder of another run; give another folder for the scores with --out"
        )


def _require_same_manifest(scores: Path, manifest: Path, data: DataSummary) -> None:
    """Raise `RunError` if a folder has the scores of another manifest.

    A manifest that moved is the same if its summary is; scores of earlier versions name none.
    """
    try:
        found = load(scores)
        place, clips = str(found.get(MANIFEST, "")), found["clips"]
        summary = found["data"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # no scores, or damaged ones
    if place == str(manifest.absolute()):
        return
    if summary == dataclasses.asdict(data) and not (place and os.path.exists(place)):
        return
    raise RunError(
        f"{scores}: holds the scores of {place or f'another manifest of {clips} clips'}, and those "
        f"of {manifest} would replace them; give another folder with --out, or replace them with "
        "--overwrite"
    )


def _check_empathy(run: Path, recipe: Recipe, scorer: Path) -> None:
    _require_answers(run, recipe, "answers to score for empathy")
    load_card(scorer)


def _require_answers(run: Path, recipe: Recipe, needed: str) -> None:
    if not recipe.needs_llm:
        raise ConfigError(
            f"{run}: recipe {recipe.name!r} has no LLM, so there are no {needed}; leave that out, "
            "or evaluate a run of a recipe that answers, as `small`"
        )


def choose_samples(utterances: Sequence[Utterance], count: int) -> list[Utterance]:
    """Utterances spread over emotions and speakers; the same call chooses the same ones."""
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
