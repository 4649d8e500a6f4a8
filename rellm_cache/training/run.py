"""train. In: a recipe, a manifest folder, a cache. Out: a run folder with what trained.

    <out>/recipe.toml            as resolved, encoders' weights pinned
    <out>/data.sha256            digest of what is learnt from: a run goes on with that alone
    <out>/metrics.jsonl          a line a step and a line an epoch
    <out>/checkpoints/step-N/    the two newest states, to continue from; of a run that has ended
                                 the last weights alone
    <out>/checkpoints/best.safetensors
    <out>/adapter.safetensors, adapter_config.json      the result
    <out>/training.json, README.md                      how it came about, and its model card
    <out>/tensorboard/

Killed at any moment, the same command goes on where the newest checkpoint stands. Audio is never
touched here: frames come from the cache.
"""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rellm_cache import __version__
from rellm_cache.annotation.distillation_targets import open_teacher
from rellm_cache.config.schema import Recipe, to_toml
from rellm_cache.config.specs import EncoderSpec
from rellm_cache.corpus.manifest import read_split
from rellm_cache.data.examples import (
    describe_gaps,
    learned_from,
    make_examples,
    questions_of,
    require_frames,
)
from rellm_cache.data.streams import StreamSet
from rellm_cache.runs.card import write_card
from rellm_cache.runs.folder import CHECKPOINTS, begin_data, begin_run, require_recipe
from rellm_cache.runs.licences import licences_of
from rellm_cache.runs.provenance import (
    TRAINING,
    DataSummary,
    TrainingRecord,
    save_training,
    summarise_data,
)
from rellm_cache.runs.shared_models import Resources
from rellm_cache.runs.weights import RECIPE, WEIGHTS, AdapterInfo, save_config
from rellm_cache.store.reader import FeatureStore
from rellm_cache.training.loop import (
    BEST,
    METRICS,
    Data,
    Trainer,
    make_accelerator,
)
from rellm_cache.training.optim import Position
from rellm_cache.training.validation import selection_score
from rellm_cache.utils.atomic_files import write_whole
from rellm_cache.utils.devices import describe_machine
from rellm_cache.utils.model_files import file_digest, locate_model, weights_digest
from rellm_cache.utils.result_table import read_journal


@dataclass(frozen=True)
class TrainReport:
    """A finished run.

    Attributes:
        out: the run folder.
        steps: optimiser steps in all.
        resumed_at: step this call continued from, 0 for a new run; equal to `steps` if there was
            nothing left to do.
        seconds: of training, over all calls.
        validation: scores of the kept checkpoint on the validation split.
        untrained: the same of the adapter before its first step.
        trainable: parameters that trained.
        notes: what the data could not teach.
    """

    out: Path
    steps: int
    resumed_at: int
    seconds: float
    validation: dict[str, float]
    untrained: dict[str, float]
    trainable: int
    notes: list[str]


def train(
    recipe: Recipe, manifest: Path, cache: Path, out: Path, resources: Resources | None = None
) -> TrainReport:
    """Train a recipe's adapter and heads, or go on with an interrupted run.

    A recipe with `[text]` has none: its run folder is made, ready to answer.

    Args:
        resources: the LLM and stores that other runs of this process use too.

    Raises:
        RunError: `out` holds something else, or learnt from other data.
        StoreError: the cache lacks a store or clips.
        ManifestError: there is no train split, or `report.json` beside it cannot be read.
    """
    if recipe.text is not None:
        return _nothing_to_train(recipe, out)
    resources = resources or Resources()
    accelerator = make_accelerator(recipe, out)
    with accelerator.main_process_first():
        begin_run(recipe, out)
    training = read_split(manifest, "train")
    has_validation = (manifest / "validation.jsonl").exists()
    validation = read_split(manifest, "validation") if has_validation else []
    frames = resources.frames(recipe, cache)
    ids = [u.id for u in (*training, *validation)]
    require_frames(frames, ids, f"rellm extract {manifest} --recipe … --cache {cache}")
    recipe = pinned(recipe, frames)
    require_recipe(recipe, out)  # of an earlier call, whose frames may have had other weights
    splits = ("train", "validation") if validation else ("train",)
    questions = questions_of(recipe, manifest, splits)
    with accelerator.main_process_first():
        begin_data(learned_from((training, validation), recipe, questions, frames), out)
    notes = describe_gaps(training, recipe)
    if validation:
        notes += [f"validation: {note}" for note in describe_gaps(validation, recipe)]
    else:
        notes.append("no validation.jsonl: the last checkpoint is kept")
    if recipe.losses.question and (mute := sum(u.id not in questions for u in training)):
        notes.append(f"{mute} of {len(training)} clips have no question of mode {recipe.qa.mode!r}")
    summaries = (
        summarise_data(training, manifest),
        summarise_data(validation, manifest) if validation else None,
    )
    llm = resources.llm(recipe.llm, accelerator.device) if recipe.needs_llm and recipe.llm else None
    if llm is not None and recipe.losses.response_kl:
        frames.teacher = open_teacher([*training, *validation], recipe, llm.chat, cache, manifest)
    data = Data(
        make_examples(training, recipe, llm, questions),
        make_examples(validation, recipe, llm, questions),
        frames,
    )
    trainer = Trainer(recipe, data, out, llm, accelerator)
    start = resume(trainer)
    if accelerator.is_main_process:
        write_whole(out / RECIPE, to_toml(recipe))
    end = trainer.run(start)
    report = finish(trainer, start, end, notes)
    if accelerator.is_main_process:
        record(trainer, report, *summaries)
    return report


def _nothing_to_train(recipe: Recipe, out: Path) -> TrainReport:
    """The run folder of a model that reads: its recipe is all that `generate` needs."""
    begin_run(recipe, out)
    note = f"recipe {recipe.name!r} reads text and has nothing to train; RUN answers as it is"
    return TrainReport(out, 0, 0, 0.0, {}, {}, 0, [note.replace("RUN", str(out))])


def pinned(recipe: Recipe, frames: StreamSet) -> Recipe:
    """The recipe with the digests of the weights that made the stores it trains from."""
    specs = {
        name: store.spec
        for name, store in (("speech", frames.speech), ("emotion", frames.emotion))
        if isinstance(store, FeatureStore) and isinstance(store.spec, EncoderSpec)
    }
    return dataclasses.replace(recipe, encoders=dataclasses.replace(recipe.encoders, **specs))


def resume(trainer: Trainer) -> Position:
    """Restore the newest whole checkpoint, and drop metrics that lie beyond it."""
    position = trainer.resuming.restore()
    if trainer.accelerator.is_main_process:
        kept = [row for row in read_metrics(trainer.out) if 0 < position.step >= row["step"]]
        write_whole(trainer.metrics, "".join(json.dumps(row) + "\n" for row in kept))
    return position


def read_metrics(run: Path) -> Iterator[dict[str, Any]]:
    """Rows of a run's metrics."""
    return read_journal(run / METRICS)


def finish(trainer: Trainer, start: Position, end: Position, notes: list[str]) -> TrainReport:
    """Put the kept weights and their description into the run folder."""
    out, recipe, frames = trainer.out, trainer.recipe, trainer.data.frames
    trainable = sum(p.numel() for p in trainer.model.parameters())
    if trainer.accelerator.is_main_process:
        best = out / CHECKPOINTS / BEST
        shutil.copyfile(best, out / f".{WEIGHTS}.partial")
        (out / f".{WEIGHTS}.partial").replace(out / WEIGHTS)
        streams = (frames.speech, frames.emotion)
        stores = [stream for stream in streams if isinstance(stream, FeatureStore)]
        info = AdapterInfo(
            speech_size=frames.speech.frame_size,
            emotion_size=frames.emotion.frame_size if frames.emotion else 0,
            output_size=trainer.model.adapter.norm.weight.numel(),
            trainable_parameters=trainable,
            licences=licences_of(recipe, stores),
        )
        save_config(out, info, recipe)
        trainer.resuming.end(end)
    epochs = [row for row in read_metrics(out) if "validation" in row]
    kept = _kept_epoch(recipe, epochs)
    return TrainReport(
        out=out,
        steps=end.step,
        resumed_at=start.step,
        seconds=end.seconds,
        validation=kept,
        untrained=epochs[0]["validation"] if epochs else {},
        trainable=trainable,
        notes=notes,
    )


def _kept_epoch(recipe: Recipe, epochs: list[dict[str, Any]]) -> dict[str, float]:
    """Validation scores of the epoch whose weights were kept."""
    trained = [row for row in epochs if row["epoch"] > 0]
    best = max(
        trained, key=lambda r: selection_score(recipe, r["validation"], r["epoch"]), default={}
    )
    return dict(best.get("validation", {}))


def record(
    trainer: Trainer, report: TrainReport, train: DataSummary, validation: DataSummary | None
) -> None:
    """Write `training.json` and the model card; a record that is there stays as it is."""
    recipe = trainer.recipe
    if not (report.out / TRAINING).exists() or report.resumed_at < report.steps:
        start, llm = recipe.training.start_from, recipe.llm if recipe.needs_llm else None
        found = TrainingRecord(
            rellm=__version__,
            train=train,
            validation=validation,
            steps=report.steps,
            seconds=round(report.seconds, 1),
            processes=trainer.accelerator.num_processes,
            machine=describe_machine(trainer.device, next(trainer.model.parameters()).dtype),
            llm_weights=weights_digest(locate_model(llm.model, llm.revision)) if llm else "",
            started_from=file_digest(Path(start) / WEIGHTS) if start else "",
            scores=report.validation,
        )
        save_training(report.out, found)
    write_card(report.out)
