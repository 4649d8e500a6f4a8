"""What all models need. In: a request. Out: manifests, recipes, frames, transcripts, dimensions."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from rellm_cache.config import Recipe, load_recipe
from rellm_cache.corpus.manifest import read_manifests
from rellm_cache.encoders.registry import build_encoder, resolve
from rellm_cache.errors import RellmError, RunError
from rellm_cache.progress import say
from rellm_cache.stages.annotate import annotate
from rellm_cache.stages.extract import extract
from rellm_cache.stages.import_blsp import import_blsp
from rellm_cache.stages.prepare import REPORT, prepare
from rellm_cache.stages.reproduction.folds import Fold
from rellm_cache.stages.reproduction.paper import MAIN, Row
from rellm_cache.stages.reproduction.request import Request
from rellm_cache.stages.transcribe import transcribe
from rellm_cache.store.layout import failures_path

# The recipe of each row that can be made, and the run folder of one that is asked as it is.
Recipes = dict[Row, tuple[Recipe, Path | None]]


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


def find_recipes(request: Request, rows: Sequence[Row], absent: dict[str, str]) -> Recipes:
    """The recipe of each row that can be made, and the run folder of one asked as it is."""
    found: Recipes = {}
    for row in rows:
        recipe = load_recipe(row.recipe, request.overrides, request.base)
        start = None
        if row.kind != "reads" and request.blsp is not None:
            start = _start(request, row, recipe)
            recipe = load_recipe(str(start / "recipe.toml"))
        if row.kind == "starts" and start is None:
            absent[row.name] = "needs a BLSP-Emo checkpoint of the base recipe's LLM: --blsp FOLDER"
            continue
        found[row] = (recipe, start if row.kind == "starts" else None)
    return found


def _start(request: Request, row: Row, recipe: Recipe) -> Path:
    """The run folder that a row starts from, imported once."""
    out = request.out / "blsp" / row.name
    if request.blsp is not None and not out.exists():
        emotion = recipe.encoders.emotion
        device = torch.device("cpu")
        size = build_encoder(resolve(emotion), device).frame_size if emotion else 0
        import_blsp(request.blsp, out, recipe, size)
    return out


def encode(
    request: Request,
    recipes: Recipes,
    manifests: Path,
    absent: dict[str, str],
) -> None:
    """Frames of every encoder, Whisper's transcripts, and dimensions where the corpus has none."""
    for row, (recipe, _) in list(recipes.items()):
        if recipe.text is None:
            for report in extract(manifests, recipe, request.cache):
                if report.failed:
                    raise RunError(
                        f"{report.failed} clips could not be encoded; {failures_path(report.path)} "
                        "says why: mend them, or take them out of the manifest, and start again"
                    )
        elif recipe.text.transcript == "whisper":
            try:
                transcribe([manifests], recipe, request.cache)
            except RellmError as error:
                absent[row.name] = str(error)
                del recipes[row]
    main = load_recipe(MAIN, request.overrides, request.base)
    emotion = main.encoders.emotion
    has_head = emotion is not None and emotion.kind == "wav2vec2-emotion"
    if has_head and not all(u.vad for u in read_manifests(manifests)):
        extract(manifests, main, request.cache)
        annotate(manifests, main, request.cache)
