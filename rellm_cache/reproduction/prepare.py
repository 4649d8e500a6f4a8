"""Preparation of Table I: the request, manifests, recipes, frames, transcripts and dimensions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from rellm_cache.annotation.pseudo_dimensions import annotate
from rellm_cache.annotation.transcripts import transcribe
from rellm_cache.config.recipes import load_recipe
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.clip_limits import REPORT
from rellm_cache.corpus.manifest import read_manifests
from rellm_cache.corpus.prepare import prepare
from rellm_cache.encoders.registry import build_encoder, resolve
from rellm_cache.errors import ConfigError, RellmError, RunError
from rellm_cache.extraction.run import extract
from rellm_cache.importers.blsp import import_blsp
from rellm_cache.reproduction.folds import Fold, Source
from rellm_cache.reproduction.paper import CONTROL, MAIN, ROWS, Row
from rellm_cache.reproduction.runs import Model
from rellm_cache.runs.weights import CONFIG, RECIPE, load_info
from rellm_cache.store.format import failures_path
from rellm_cache.utils.atomic_files import is_temporary, write_json
from rellm_cache.utils.console import counted, say
from rellm_cache.utils.json_files import read_object
from rellm_cache.utils.litter import is_litter

SETTINGS = "settings.json"


@dataclass(frozen=True)
class Request:
    """Settings of a reproduction."""

    source: Source  # corpus and splits
    out: Path  # folder of the reproduction
    cache: Path  # root of the stores
    base: str = "re-llm"  # recipe; the paper's rows are variants of it
    overrides: tuple[str, ...] = ()  # changes of the recipes of all rows
    rows: tuple[str, ...] = ()  # names of the rows; empty for all
    folds: int = 0  # use the first folds, this many; 0 for all. More can be added later
    control: bool = False  # also train on shuffled labels
    empathy: Path | None = None  # folder of an empathy scorer, or None to leave ER and EX out
    # Folder of a BLSP-Emo checkpoint, from which all trained rows start; or a run that replaces
    # BLSP-Emo in its own row; or None.
    blsp: Path | None = None
    # Recipe without an LLM, or empty. Each trained row first trains this recipe, with the row's
    # changes, and then starts from the result.
    first: str = ""
    processes: int = 1  # number of models trained at a time
    batch_size: int = 8  # clips answered at a time
    allow_partial: bool = False  # accept a corpus with missing clips

    def __post_init__(self) -> None:
        if self.first and self.checkpoint is not None:
            raise ConfigError(
                "--first and --blsp: training starts from one or the other; remove one of them"
            )

    @property
    def checkpoint(self) -> Path | None:
        """The BLSP-Emo checkpoint, if `blsp` is one."""
        return None if self.blsp is None or self.stand_in else self.blsp

    @property
    def stand_in(self) -> Path | None:
        """The run that replaces BLSP-Emo, if `blsp` is a run."""
        return self.blsp if self.blsp is not None and (self.blsp / CONFIG).exists() else None

    @property
    def wanted(self) -> list[Row]:
        """Requested rows in the paper's order; the control is last.

        Raises:
            ConfigError: a name is unknown.
        """
        known = [row.name for row in ROWS]
        for name in self.rows:
            if name not in known:
                raise ConfigError(f"row {name!r}: expected one of {', '.join(known)}")
        rows = [row for row in ROWS if not self.rows or row.name in self.rows]
        return [*rows, CONTROL] if self.control else rows


def claim_folder(request: Request) -> None:
    """Write the settings of a reproduction into its folder.

    Raises:
        RunError: the folder is not empty, and its settings are missing, damaged or different.
    """
    source = request.source
    settings = {
        "corpus": source.corpus,
        "data": str(source.data.resolve()),
        "splits": source.splits,
        "cross_validate": source.cross_validate,
        "seed": source.seed,
        "base": request.base,
        "set": list(request.overrides),
        "first": request.first,
        "blsp": str(request.checkpoint.resolve()) if request.checkpoint else "",
    }
    path = request.out / SETTINGS
    if not path.exists():
        entries = request.out.iterdir() if request.out.exists() else ()
        if not all(is_litter(entry) or is_temporary(entry) for entry in entries):
            raise RunError(
                f"{request.out}: is not empty and holds no reproduction; choose another --out"
            )
        request.out.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)
        return
    found = read_object(
        path,
        RunError,
        "to write it again, run the same command with another --out, stop it when it has written "
        f"its {SETTINGS}, and copy that file here",
    )
    differing = [
        f"{k}: wanted {v!r}, found {found.get(k)!r}"
        for k, v in settings.items()
        if found.get(k) != v
    ]
    if differing:
        raise RunError(
            f"{request.out}: holds a reproduction of something else ({'; '.join(differing)}); "
            "choose another --out"
        )


Models = dict[Row, Model]  # of all rows that can be made
MANIFEST, SHUFFLED = "manifest", "shuffled"  # folders of a fold


def prepare_corpus(request: Request, folds: Sequence[Fold]) -> Path:
    """Write a manifest folder with the clips of all folds, in the splits of the first fold."""
    manifests = request.out / "manifests"
    if (manifests / REPORT).exists():
        say(f"Already prepared: {manifests}")
        return manifests
    utterances = {u.id: u for fold in reversed(folds) for u in fold.corpus.utterances}
    corpus = replace(folds[0].corpus, utterances=list(utterances.values()))
    report = prepare(corpus, manifests, allow_partial=request.allow_partial)
    for note in report.to_json()["notes"]:
        say(f"Note: {note}")
    return manifests


def find_models(request: Request, rows: Sequence[Row], absent: dict[str, str]) -> Models:
    """Row → model; a row that cannot be made is added to `absent` with the reason."""
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
                "needs a BLSP-Emo checkpoint of the base recipe's LLM, or a run that stands in for "
                "it: --blsp FOLDER"
            )
        else:
            first = load_recipe(row.recipe, base=request.first) if request.first else None
            found[row] = Model(recipe, first=first)
    return found


def _start(checkpoint: Path, request: Request, row: Row, recipe: Recipe) -> Path:
    """The run folder that a row starts from, imported from the checkpoint if it is missing."""
    out = request.out / "blsp" / row.name
    if not out.exists():
        _, *others = recipe.encoders.items()  # the checkpoint gives the frame size of the first
        device = torch.device("cpu")
        sizes = {name: build_encoder(resolve(e.spec), device).frame_size for name, e in others}
        import_blsp(checkpoint, out, recipe, sizes)
    return out


def encode(request: Request, models: Models, manifests: Path) -> None:
    """Extract frames of all encoders, and fill missing dimensions."""
    for model in models.values():
        if model.recipe.text is None:
            for recipe in (model.recipe, *([model.first] if model.first else [])):
                _extract(request, recipe, manifests)
    main = load_recipe(MAIN, request.overrides, request.base)
    if main.vad_encoder is not None and not all(u.vad for u in read_manifests(manifests)):
        _extract(request, main, manifests)
        annotate(manifests, main, request.cache)


def _extract(request: Request, recipe: Recipe, manifests: Path) -> None:
    """Extract frames of a recipe's encoders; `RunError` if a clip fails."""
    for report in extract(manifests, recipe, request.cache):
        if report.failed:
            raise RunError(
                f"{counted(report.failed, 'clip')} could not be encoded; "
                f"{failures_path(report.path)} says why; repair them or remove "
                "them from the manifest, and start again"
            )


def transcribe_tests(
    request: Request, models: Models, folds: Sequence[str], absent: dict[str, str]
) -> None:
    """Transcribe the test splits with Whisper; a row without transcripts moves to `absent`."""
    tests = [request.out / fold / MANIFEST / "test.jsonl" for fold in folds]
    for row, model in list(models.items()):
        text = model.recipe.text
        if text is not None and text.transcript == "whisper":
            try:
                transcribe(tests, model.recipe, request.cache)
            except RellmError as error:
                absent[row.name] = str(error)
                del models[row]
