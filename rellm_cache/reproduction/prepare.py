"""What all models need. In: a request. Out: manifests, recipes, frames, transcripts, dimensions."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from rellm_cache.annotation.pseudo_vad import annotate
from rellm_cache.annotation.transcripts import transcribe
from rellm_cache.config.schema import Recipe, load_recipe
from rellm_cache.corpus.manifest import read_manifests
from rellm_cache.corpus.prepare import prepare
from rellm_cache.corpus.statistics import REPORT
from rellm_cache.encoders.registry import build_encoder, resolve
from rellm_cache.errors import RellmError, RunError
from rellm_cache.extraction.run import extract
from rellm_cache.importers.blsp_run import import_blsp
from rellm_cache.reproduction.folds import Fold
from rellm_cache.reproduction.paper import MAIN, Row
from rellm_cache.reproduction.request import Request
from rellm_cache.reproduction.runs import Model
from rellm_cache.runs.weights import RECIPE, load_info
from rellm_cache.store.format import failures_path
from rellm_cache.utils.console import counted, say

Models = dict[Row, Model]  # of the rows that can be made
MANIFEST, SHUFFLED = "manifest", "shuffled"  # folders of a fold


def prepare_corpus(request: Request, folds: Sequence[Fold]) -> Path:
    """The manifest folder of all clips that some fold has, in the first fold's splits."""
    manifests = request.out / "manifests"
    if (manifests / REPORT).exists():
        say(f"Prepared before: {manifests}")
        return manifests
    utterances = {u.id: u for fold in reversed(folds) for u in fold.corpus.utterances}
    corpus = replace(folds[0].corpus, utterances=list(utterances.values()))
    report = prepare(corpus, manifests, allow_partial=request.allow_partial)
    for note in report.to_json()["notes"]:
        say(f"Note: {note}")
    return manifests


def find_models(request: Request, rows: Sequence[Row], absent: dict[str, str]) -> Models:
    """How each row's model is made; a row that cannot be made is noted in `absent`."""
    found: Models = {}
    for row in rows:
        recipe = load_recipe(row.recipe, request.overrides, request.base)
        if row.kind == "reads":
            found[row] = Model(recipe)
        elif row.kind == "starts" and request.stand_in is not None:
            load_info(request.stand_in)
            found[row] = Model(load_recipe(str(request.stand_in / RECIPE)), request.stand_in)
        elif request.checkpoint is not None:
            start = _start(request.checkpoint, request, row, recipe)
            ready = start if row.kind == "starts" else None
            found[row] = Model(load_recipe(str(start / RECIPE)), ready)
        elif row.kind == "starts":
            absent[row.name] = (
                "needs a BLSP-Emo checkpoint of the base recipe's LLM, or a run that stands for "
                "it: --blsp FOLDER"
            )
        else:
            first = load_recipe(row.recipe, base=request.first) if request.first else None
            found[row] = Model(recipe, first=first)
    return found


def _start(checkpoint: Path, request: Request, row: Row, recipe: Recipe) -> Path:
    """The run folder that a row starts from, imported once."""
    out = request.out / "blsp" / row.name
    if not out.exists():
        emotion = recipe.encoders.emotion
        device = torch.device("cpu")
        size = build_encoder(resolve(emotion), device).frame_size if emotion else 0
        import_blsp(checkpoint, out, recipe, size)
    return out


def encode(request: Request, models: Models, manifests: Path) -> None:
    """Frames of every encoder, and dimensions where the corpus has none."""
    for model in models.values():
        if model.recipe.text is None:
            for recipe in (model.recipe, *([model.first] if model.first else [])):
                _extract(request, recipe, manifests)
    main = load_recipe(MAIN, request.overrides, request.base)
    emotion = main.encoders.emotion
    has_head = emotion is not None and emotion.kind == "wav2vec2-emotion"
    if has_head and not all(u.vad for u in read_manifests(manifests)):
        _extract(request, main, manifests)
        annotate(manifests, main, request.cache)


def _extract(request: Request, recipe: Recipe, manifests: Path) -> None:
    """Frames of a recipe's encoders; `RunError` where a clip has none."""
    for report in extract(manifests, recipe, request.cache):
        if report.failed:
            raise RunError(
                f"{counted(report.failed, 'clip')} could not be encoded; "
                f"{failures_path(report.path)} says why: mend them, or take "
                "them out of the manifest, and start again"
            )


def write_down(
    request: Request, models: Models, folds: Sequence[str], absent: dict[str, str]
) -> None:
    """Whisper's transcripts of what is tested; a row that gets none is moved to `absent`."""
    tested = [request.out / fold / MANIFEST / "test.jsonl" for fold in folds]
    for row, model in list(models.items()):
        text = model.recipe.text
        if text is not None and text.transcript == "whisper":
            try:
                transcribe(tested, model.recipe, request.cache)
            except RellmError as error:
                absent[row.name] = str(error)
                del models[row]
