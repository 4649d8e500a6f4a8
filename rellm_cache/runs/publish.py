"""Publication of a finished run: a folder for a model hub. It can also be used as a run folder.

    <out>/adapter.safetensors       trained weights: adapter, heads and LoRA, if any
    <out>/adapter_config.json, recipe.toml, training.json
    <out>/scores.json               scores by `rellm evaluate`, if any
    <out>/README.md, LICENSES.md    model card and licences
    <out>/SHA256SUMS                checksums, as `sha256sum -c` reads them

It has no other files: no optimizer, utterances, audio or answers. The recipe must name models that
other people can download. The same run gives the same bytes.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rellm_cache.config.recipes import to_toml
from rellm_cache.config.schema import Recipe
from rellm_cache.errors import ConfigError, RunError
from rellm_cache.runs.card import (
    CARD,
    MANIFEST,
    SCORES,
    Card,
    metadata,
    read_card,
    render_card,
    render_licences,
)
from rellm_cache.runs.licences import KNOWN_MODELS, UNKNOWN
from rellm_cache.runs.provenance import TRAINING, training_text
from rellm_cache.runs.weights import (
    CONFIG,
    RECIPE,
    WEIGHTS,
    adapter_digest,
    config_text,
    read_tensors,
    run_recipe,
)
from rellm_cache.utils.atomic_files import replaced_folder
from rellm_cache.utils.checksums import SUMS, sums_text
from rellm_cache.utils.litter import is_litter
from rellm_cache.utils.model_files import HUB_ID, models_root
from rellm_cache.utils.regular_files import file_digest, folder_exists, read_regular

LICENCES = "LICENSES.md"
CONTENT = frozenset((WEIGHTS, CONFIG, RECIPE, TRAINING, SCORES, CARD, LICENCES, SUMS))


@dataclass(frozen=True)
class Publication:
    """An assembled folder.

    Attributes:
        files: name → SHA-256 of its content.
        unchanged: the folder existed already, with the same bytes.
        non_commercial: models and corpora that allow non-commercial use only.
        unknown: models and corpora with an unknown licence.
        notes: sentences about what was left out.
    """

    out: Path
    files: dict[str, str]
    unchanged: bool
    licence: str
    non_commercial: list[str]
    unknown: list[str]
    notes: list[str]


def publish(
    run: Path, out: Path, overrides: Sequence[str] = (), without_scores: bool = False
) -> Publication:
    """Assemble the folder of a run for a model hub, unless it exists already.

    Args:
        overrides: hub ids in place of local folders, as `llm.model=OWNER/NAME`.
        without_scores: allow a run without scores.

    Raises:
        RunError: the run is not finished, damaged or not scored, or `out` holds something else.
        ConfigError: the recipe names a local folder, or an override changes another field.
        RellmError: `out` cannot be written.
    """
    found = read_card(run)
    weights = adapter_digest(run)
    read_tensors(run / WEIGHTS)  # nothing else than finite weights is ever published
    if found.scores is None and not without_scores:
        raise RunError(
            f"{run / SCORES}: is missing, so nobody could tell how good this adapter is; "
            f"`rellm evaluate {run} MANIFEST` writes it, or publish with --without-scores"
        )
    _require_model_fields(overrides, found.recipe)
    card = make_public(found, run_recipe(run, overrides))
    texts = _texts(card)
    files = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    files = dict(sorted({**files, WEIGHTS: weights}.items()))
    texts[SUMS] = sums_text(files)
    _require_publication_folder(out, run)
    unchanged = _is_same(out, files, texts[SUMS])
    if not unchanged:
        with replaced_folder(out, (run / WEIGHTS).stat().st_size) as partial:
            shutil.copyfile(run / WEIGHTS, partial / WEIGHTS)
            for name, text in texts.items():
                (partial / name).write_text(text, "utf-8")
    head = metadata(card)
    return Publication(
        out=out,
        files=files,
        unchanged=unchanged,
        licence=head.get("license_name", head["license"]),
        non_commercial=[part.name for part in card.licences.non_commercial],
        unknown=[part.name for part in card.licences.unknown],
        notes=_notes(found, card),
    )


def is_published(folder: Path) -> bool:
    """Whether a folder is a publication; the files of a publication must not change."""
    return (folder / SUMS).is_file()


def make_public(card: Card, recipe: Recipe) -> Card:
    """Replace local folders in the card with hub ids, and remove `training.init_from`.

    Raises:
        ConfigError: a model is in a local folder that is not a copy from a hub.
    """
    public = {field: public_id(field, model) for field, model in model_fields(recipe).items()}
    names = {model: public[field] for field, model in model_fields(card.recipe).items()}
    llm, transcriber = recipe.llm, recipe.transcriber
    licences = {}
    for name, licence in card.info.licences.items():
        public_name = names.get(name) or _public(name) or Path(name).name
        stated = licence if licence != UNKNOWN else KNOWN_MODELS.get(public_name, UNKNOWN)
        licences[public_name] = stated
    return replace(
        card,
        info=replace(card.info, licences=licences),
        recipe=replace(
            recipe,
            encoders={
                name: replace(encoder, model=public[f"encoders.{name}.model"])
                for name, encoder in recipe.encoders.items()
            },
            llm=llm and replace(llm, model=public["llm.model"]),
            transcriber=transcriber and replace(transcriber, model=public["transcriber.model"]),
            training=replace(recipe.training, init_from=""),
        ),
    )


def public_id(field: str, model: str) -> str:
    """Hub id of a model; the model may be a copy under the models root.

    Raises:
        ConfigError: the model is another local folder.
    """
    found = _public(model) if model else ""
    if found is None:
        raise ConfigError(
            f"{field} = {model!r}: found a local folder, which others do not have; expected a hub "
            f"id: publish with --set {field}=OWNER/NAME, which has the same weights"
        )
    return found


def _public(model: str) -> str | None:
    if folder_exists(model):
        root, folder = os.path.abspath(models_root()), os.path.abspath(model)
        model = os.path.relpath(folder, root)
    return model if HUB_ID.fullmatch(model) or model in KNOWN_MODELS else None


def model_fields(recipe: Recipe) -> dict[str, str]:
    """Fields of a recipe that name a model, with the model; empty for signal processing."""
    fields = {f"encoders.{name}.model": e.model for name, e in recipe.encoders.items()}
    if recipe.llm is not None:
        fields["llm.model"] = recipe.llm.model
    if recipe.transcriber is not None:
        fields["transcriber.model"] = recipe.transcriber.model
    return fields


def _require_model_fields(overrides: Sequence[str], recipe: Recipe) -> None:
    fields = model_fields(recipe)
    for override in overrides:
        if override.partition("=")[0].strip() not in fields:
            raise ConfigError(
                f"--set {override!r}: the run is trained; only the places of models can change "
                f"now: {', '.join(fields)}"
            )


def _texts(card: Card) -> dict[str, str]:
    texts = {
        CONFIG: config_text(card.info, card.recipe),
        RECIPE: to_toml(card.recipe),
        TRAINING: training_text(replace(card.training, cache="")),
        CARD: render_card(card),
        LICENCES: render_licences(card),
    }
    if card.scores is not None:
        scores = {key: value for key, value in card.scores.items() if key != MANIFEST}
        texts[SCORES] = json.dumps(scores, indent=2) + "\n"
    return texts


def _require_publication_folder(out: Path, run: Path) -> None:
    """Raise `RunError` unless a folder is empty, missing or an earlier publication."""
    present = _names(out)
    if out.resolve() == run.resolve():
        raise RunError(f"{out}: is the run itself; choose another --out")
    if present and (SUMS not in present or present - CONTENT):
        other = sorted(present - CONTENT) or sorted(present)
        raise RunError(
            f"{out}: holds {other[0]}, which is not part of a publication; choose another --out, "
            "or remove it"
        )


def _is_same(out: Path, files: dict[str, str], sums: str) -> bool:
    present = _names(out)
    return (
        present == {*files, SUMS}
        and read_regular(out / SUMS) == sums.encode()
        and all(file_digest(out / name) == digest for name, digest in files.items())
    )


def _names(folder: Path) -> set[str]:
    """Names in a folder, without litter; empty if there is no folder."""
    found = folder.iterdir() if folder.is_dir() else ()
    return {path.name for path in found if not is_litter(path)}


def _notes(found: Card, card: Card) -> list[str]:
    notes = []
    if found.scores is None:
        notes.append("published without scores")
    if start := found.recipe.training.init_from:
        notes.append(f"training.init_from = {start!r} is left out; the weights include its effect")
    if (llm := card.recipe.llm) and card.recipe.needs_llm and "/" not in llm.model:
        notes.append(f"{llm.model} is on no hub; others make it with `rellm import qwen`")
    return notes
