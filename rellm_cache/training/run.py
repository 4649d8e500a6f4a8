"""Training run: from a recipe, a manifest folder and a cache to a run folder.

    <out>/recipe.toml            complete recipe, with the encoders' weights pinned
    <out>/data.sha256            digest of the training data; a run continues only on the same
    <out>/metrics.jsonl          one row for each step and for each epoch
    <out>/checkpoints/step-N/    the two newest checkpoints; of a finished run, the last weights
    <out>/checkpoints/best.safetensors
    <out>/adapter.safetensors, adapter_config.json      the result
    <out>/training.json, README.md                      how it was trained, and its model card
    <out>/tensorboard/ or wandb/, tracker.json          of training.tracker

After a kill at any moment, the same command continues from the newest checkpoint. Training reads
frames from the cache and never touches audio.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from rellm_cache.annotation.teacher import open_teacher_store, teacher_spec
from rellm_cache.config.schema import EncoderConfig, Recipe
from rellm_cache.corpus.clip_limits import read_limits
from rellm_cache.corpus.manifest import Utterance, read_split
from rellm_cache.corpus.speed_copies import read_training_clips, speed_copies, without_copies
from rellm_cache.data.batch import Example
from rellm_cache.data.examples import (
    Questions,
    data_digest,
    describe_missing_labels,
    load_questions,
    make_examples,
)
from rellm_cache.data.speaker_normalization import normalize_speakers
from rellm_cache.data.streams import StreamSet
from rellm_cache.errors import ConfigError, RunError
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.model.losses.registry import active_losses
from rellm_cache.runs.card import CARD, write_card
from rellm_cache.runs.folder import (
    CHECKPOINTS,
    DATA,
    create_run_folder,
    emptied_on_error,
    record_data,
    record_recipe,
    require_same_data,
    require_same_recipe,
)
from rellm_cache.runs.licences import model_licences
from rellm_cache.runs.provenance import (
    TRAINING,
    DataSummary,
    TrainingRecord,
    cache_location,
    has_record,
    load_training,
    save_training,
    summarize_data,
)
from rellm_cache.runs.shared_models import SharedModels
from rellm_cache.runs.weights import (
    CONFIG,
    RECIPE,
    WEIGHTS,
    AdapterInfo,
    load_info,
    read_layer_weights,
    save_config,
)
from rellm_cache.training.callbacks import Callback, TrainReport
from rellm_cache.training.checkpoints import Position, final_position
from rellm_cache.training.label_check import (
    require_labels,
    require_listed_emotions,
    require_positions,
)
from rellm_cache.training.loop import (
    METRICS,
    Trainer,
    TrainingData,
    make_accelerator,
    read_metrics,
)
from rellm_cache.training.trackers import require_tracker
from rellm_cache.training.validation import selection_score
from rellm_cache.utils.checksums import RESULTS, is_intact, read_sums, recorded
from rellm_cache.utils.console import say
from rellm_cache.utils.devices import describe_machine, use_threads
from rellm_cache.utils.locks import hold_folder
from rellm_cache.utils.model_files import locate_model, weights_digest
from rellm_cache.utils.regular_files import file_digest
from rellm_cache.version import __version__


@dataclass(frozen=True)
class _Corpus:
    """Both splits of a manifest folder, their frames, and their questions by utterance id."""

    train: list[Utterance]
    validation: list[Utterance]
    streams: StreamSet
    questions: Questions
    manifest: Path
    copies: list[tuple[int, Utterance]]  # of validation clips, each with the place of its original


def train(
    recipe: Recipe,
    manifest: Path,
    cache: Path,
    out: Path,
    resources: SharedModels | None = None,
    callbacks: Sequence[Callback] = (),
) -> TrainReport:
    """Train a recipe's adapter and heads, or continue an interrupted run.

    A recipe with `[text]` has nothing to train: its run folder is only created, and no callback is
    called.

    Args:
        resources: the LLM and stores shared with other runs of this process.
        callbacks: called after each step, after each epoch and at the end.

    Raises:
        ConfigError: early stopping without a validation split, a validation split on which
            `training.best_metric` has no value, a callback returned something else than None or
            `STOP`, or the library of `training.tracker` is not installed.
        RunError: `out` is not a run of this recipe, or was trained on other data.
        RellmError: another process writes `out`.
        StoreError: the cache lacks a store or clips.
        ManifestError: there is no train split, no clip has the labels of a loss, clips have
            emotions that the recipe does not name, a clip is too long for the LLM, the recipe
            normalizes by speaker and a clip has no speaker, or `report.json` in its folder cannot
            be read.
    """
    if recipe.text is not None:
        with hold_folder(out):
            create_run_folder(recipe, out)
        return _nothing_to_train(recipe.name, out)
    recipe = dataclasses.replace(recipe, plugins=recipe.providers())
    resources = resources or SharedModels()
    require_validation(recipe, manifest)
    require_tracker(recipe.training.tracker)
    if (start := recipe.training.init_from) and Path(start).resolve() == out.resolve():
        raise RunError(
            f"{out}: training starts from the weights in this folder (training.init_from), and "
            "would replace them; choose another --out"
        )
    accelerator = make_accelerator(out, recipe.training.tracker)
    main = accelerator.is_main_process
    with (
        hold_folder(out) if main else nullcontext(),
        emptied_on_error(out) if main else nullcontext(),
    ):
        return _train(recipe, manifest, cache, out, resources, accelerator, callbacks)


def _train(
    recipe: Recipe,
    manifest: Path,
    cache: Path,
    out: Path,
    resources: SharedModels,
    accelerator: Accelerator,
    callbacks: Sequence[Callback],
) -> TrainReport:
    """Train in a run folder that this command holds; see `train`."""
    with accelerator.main_process_first():
        create_run_folder(recipe, out)
    corpus = _read_corpus(recipe, manifest, cache, resources)
    if not (out / DATA).exists():  # a run of an older version goes on as it began
        require_listed_emotions([*corpus.train, *corpus.validation], recipe, manifest)
    encoders = pinned(recipe.encoders, corpus.streams)
    recipe = dataclasses.replace(recipe, encoders=encoders)
    require_same_recipe(recipe, out)  # differs if an earlier call used other encoder weights
    with accelerator.main_process_first():
        splits = (corpus.train, corpus.validation)
        digest = data_digest(splits, recipe.losses, corpus.questions, corpus.streams)
        check_data = record_data if accelerator.is_main_process else require_same_data
        check_data(digest, out)
    notes = _describe_corpus(corpus, recipe)
    validation = summarize_data(corpus.validation, manifest) if corpus.validation else None
    summaries = (summarize_data(without_copies(corpus.train), manifest), validation)
    if (found := _finished(recipe, out, notes)) is not None:
        for callback in callbacks if accelerator.is_main_process else ():
            callback.on_end(found)
        return found
    llm = resources.llm(recipe.used_llm, accelerator.device) if recipe.used_llm else None
    data = _make_data(corpus, recipe, llm, cache)
    for warning in require_labels(data.train, recipe, manifest):
        say(f"Warning: {warning}")
    trainer = Trainer(recipe, data, out, llm, accelerator, callbacks)
    for examples in filter(None, (data.train, data.validation)):
        require_positions(examples, data.streams, trainer.model)
    main, begun = accelerator.is_main_process, (out / METRICS).is_file()
    with recorded(out, RECIPE, CONFIG, METRICS, TRAINING, CARD) if main else nullcontext():
        start = trainer.restore()
        if main and begun and not start.step:
            say(
                f"{out}: no checkpoint was saved before, training starts again; one is saved every "
                f"{recipe.training.checkpoint_minutes:g} minutes and after each epoch"
            )
        if main:
            record_recipe(recipe, out)
        with use_threads("models" if recipe.needs_llm else "heads"):
            end = trainer.run(start)
        if main:
            trainer.copy_best_weights(end)
        report = finish(trainer, start, end, notes)
        if main:
            record(trainer, report, summaries, cache)
    for callback in callbacks if main else ():
        callback.on_end(report)
    return report


def _finished(recipe: Recipe, out: Path, notes: list[str]) -> TrainReport | None:
    """The report of a finished run whose results are intact; no model is loaded for it."""
    results = (RECIPE, WEIGHTS, CONFIG, METRICS, TRAINING, CARD)
    known = read_sums(out / RESULTS) if (out / RESULTS).is_file() else {}
    if not all(name in known and is_intact(out / name) for name in results):
        return None
    end = final_position(out / CHECKPOINTS)
    if end is None or end.stopped:
        return None
    epochs = [row for row in read_metrics(out) if "validation" in row]
    return TrainReport(
        out=out,
        steps=end.step,
        planned=end.step,
        stopped="",
        resumed_at=end.step,
        seconds=end.seconds,
        validation=_best_scores(recipe.training.best_metric, epochs, end),
        untrained=epochs[0]["validation"] if epochs else {},
        trainable=load_info(out).trainable_parameters,
        notes=notes,
        layer_weights=load_training(out).layer_weights,
    )


def require_validation(recipe: Recipe, manifest: Path) -> None:
    """Raise `ConfigError` if `training.best_metric` cannot be computed on the validation split.

    Without a validation split the last epoch is kept, but training cannot stop early.
    """
    if recipe.training.early_stopping and not (manifest / "validation.jsonl").exists():
        raise ConfigError(
            f"{manifest}: has no validation.jsonl, by which training.early_stopping = "
            f"{recipe.training.early_stopping} decides; add a validation split, or set "
            "training.early_stopping = 0"
        )
    metric, losses = recipe.training.best_metric, recipe.losses
    if metric == "last" or not (manifest / "validation.jsonl").exists():
        return
    utterances = read_split(manifest, "validation")
    labelled = any(u.emotion in recipe.heads.emotions for u in utterances)
    needed = {
        "emotions": (metric == "ua" or losses.emotion_ce or losses.emotion_lm, labelled),
        "responses": (losses.learns_responses, any(u.response for u in utterances)),
        "dimensions": (losses.vad and recipe.heads.dimensions, any(u.vad for u in utterances)),
        "questions": (losses.qa_lm or any(losses.extra.values()), True),  # known later
    }
    wanted = {
        name: there
        for name, (uses, there) in needed.items()
        if uses and (metric == "loss" or name == "emotions")
    }
    if not any(wanted.values()):
        raise ConfigError(
            f"{manifest / 'validation.jsonl'}: no clip has {' or '.join(wanted)}, so that "
            f'training.best_metric = "{metric}" has no value; label the validation split, or set '
            'training.best_metric = "last"'
        )


def _nothing_to_train(recipe: str, out: Path) -> TrainReport:
    """The report of a text model; `generate` needs only its recipe."""
    note = f"recipe {recipe!r} reads text and has nothing to train; RUN answers as it is"
    return TrainReport(out, 0, 0, "", 0, 0.0, {}, {}, 0, [note.replace("RUN", str(out))])


def _read_corpus(recipe: Recipe, manifest: Path, cache: Path, resources: SharedModels) -> _Corpus:
    training = read_training_clips(manifest, recipe.training.speed_copies)
    has_validation = (manifest / "validation.jsonl").exists()
    validation = read_split(manifest, "validation") if has_validation else []
    streams = resources.streams(recipe.encoders, cache)
    copies = speed_copies(validation, recipe.heads.speed_copies, read_limits(manifest))
    clips = [*training, *validation, *(copy for _, copy in copies)]
    command = f"rellm extract {manifest} --recipe … --cache {cache}"
    streams.require([u.id for u in clips], command)
    streams = normalize_speakers(streams, recipe.encoders, clips)
    splits = ("train", "validation") if validation else ("train",)
    questions = load_questions(recipe.losses, recipe.qa, manifest, splits)
    return _Corpus(training, validation, streams, questions, manifest, copies)


def _describe_corpus(corpus: _Corpus, recipe: Recipe) -> list[str]:
    """Notes on labels that the corpus lacks for the recipe's losses."""
    notes = describe_missing_labels(corpus.train, recipe)
    if corpus.validation:
        others = describe_missing_labels(corpus.validation, recipe)
        notes = [f"train and validation: {n}" if n in others else n for n in notes] + [
            f"validation: {note}" for note in others if note not in notes
        ]
    else:
        notes.append("no validation.jsonl: the last checkpoint is kept")
    learns = recipe.losses.vad and recipe.heads.dimensions and any(u.vad for u in corpus.train)
    if learns and corpus.validation and not any(u.vad for u in corpus.validation):
        notes.append("validation: no clip has dimensions, so that they have no scores there")
    silent = sum(u.id not in corpus.questions for u in corpus.train)
    if "qa_lm" in recipe.losses.tasks and silent:
        total = len(corpus.train)
        notes.append(f"{silent} of {total} clips have no question of mode {recipe.qa.mode!r}")
    return notes


def _make_data(corpus: _Corpus, recipe: Recipe, llm: FrozenLLM | None, cache: Path) -> TrainingData:
    streams = corpus.streams
    losses = active_losses(recipe.losses, recipe.heads.dimensions).values()
    if llm is not None and any(loss.needs_teacher for loss in losses):
        both = [*corpus.train, *corpus.validation]
        spec = teacher_spec(recipe.require_llm(), recipe.prompts, recipe.losses)
        teacher = open_teacher_store(both, spec, llm.chat, cache, corpus.manifest)
        streams = dataclasses.replace(streams, teacher=teacher)
    return TrainingData(
        make_examples(corpus.train, recipe, llm, corpus.questions),
        make_examples(corpus.validation, recipe, llm, corpus.questions),
        streams,
        [(place, Example(copy.id)) for place, copy in corpus.copies],
        _groups(corpus.train),
    )


def _groups(utterances: Sequence[Utterance]) -> list[str]:
    """Speaker of each utterance, or its audio file if fewer than two speakers are known."""
    speakers = [u.speaker or u.audio for u in utterances]
    return speakers if len({*speakers}) > 1 else [u.audio for u in utterances]


def pinned(encoders: Mapping[str, EncoderConfig], streams: StreamSet) -> dict[str, EncoderConfig]:
    """The encoders with the digests of the weights that made their stores."""
    return {
        name: dataclasses.replace(encoder, **vars(streams.sources[name].spec))
        for name, encoder in encoders.items()
    }


def finish(trainer: Trainer, start: Position, end: Position, notes: list[str]) -> TrainReport:
    """Put the description of the weights into the run folder, and report on the run."""
    out, recipe, streams = trainer.out, trainer.recipe, trainer.data.streams
    trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    layer_weights = {}
    if trainer.accelerator.is_main_process:
        info = AdapterInfo(
            sizes=streams.sizes,
            output_size=trainer.model.adapter.output_size,
            trainable_parameters=trainable,
            licences=model_licences(
                recipe.used_llm, streams.sources.values(), recipe.training.init_from
            ),
        )
        save_config(out, info, recipe)
        layer_weights = read_layer_weights(out / WEIGHTS, recipe.encoders)
        trainer.checkpoints.save_final(end)
    epochs = [row for row in read_metrics(out) if "validation" in row]
    return TrainReport(
        out=out,
        steps=end.step,
        planned=trainer.total_steps,
        stopped=end.stopped,
        resumed_at=start.step,
        seconds=end.seconds,
        validation=_best_scores(recipe.training.best_metric, epochs, end),
        untrained=epochs[0]["validation"] if epochs else {},
        trainable=trainable,
        notes=notes,
        layer_weights=layer_weights,
    )


def _best_scores(metric: str, epochs: list[dict[str, Any]], end: Position) -> dict[str, float]:
    """Validation scores of the epoch with the best weights."""
    best = {
        row["epoch"]: dict(row["validation"])
        for row in epochs
        if selection_score(metric, row["validation"], row["epoch"] - 1) == end.best
    }
    # A checkpoint of an older version does not count the epochs since the best one.
    first: dict[str, float] = next(iter(best.values()), {})
    return best.get(end.epoch - end.epochs_since_best, first)


def record(
    trainer: Trainer,
    report: TrainReport,
    summaries: tuple[DataSummary, DataSummary | None],
    cache: Path,
) -> None:
    """Write the model card, and `training.json` unless it is there and this call trained nothing.

    Args:
        summaries: of the train split and the validation split.
    """
    recipe, (train, validation) = trainer.recipe, summaries
    if report.resumed_at < report.steps or not has_record(report.out):
        start, llm = recipe.training.init_from, recipe.used_llm
        found = TrainingRecord(
            rellm=__version__,
            train=train,
            validation=validation,
            steps=report.steps,
            stopped=report.stopped,
            seconds=round(report.seconds, 1),
            processes=trainer.accelerator.num_processes,
            machine=describe_machine(trainer.device, next(trainer.model.parameters()).dtype),
            llm_weights=weights_digest(locate_model(llm.model, llm.revision)) if llm else "",
            started_from=file_digest(Path(start) / WEIGHTS) if start else "",
            scores=report.validation,
            cache=cache_location(cache),
            layer_weights=report.layer_weights,
        )
        save_training(report.out, found)
    write_card(report.out)
