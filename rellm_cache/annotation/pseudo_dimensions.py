"""Pseudo dimensions: arousal, dominance and valence from the emotion encoder's own head.

`rellm annotate` writes them into the manifest where dimensions are missing. It reads them from the
store of the encoder and marks them `pseudo`, because they are a function of the model's input.

<folder>/annotations.json    the encoder that predicted the dimensions, and how many
<folder>/report.json         the report of `prepare`, if there is one, with new counts
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rellm_cache.config.schema import EncoderConfig, Recipe
from rellm_cache.corpus.labels import read_labels
from rellm_cache.corpus.manifest import Utterance, manifest_files, parse_utterance, read_lines
from rellm_cache.corpus.statistics import ANNOTATIONS, Survey, read_report, survey, update_report
from rellm_cache.errors import ConfigError, StoreError
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.remote.mirror_paths import display_path
from rellm_cache.utils.atomic_files import write_json, write_lines
from rellm_cache.utils.locks import hold_folder

FUNCTION_OF_INPUT = (
    "pseudo dimensions are a function of the emotion encoder's frames: a model with that stream is "
    "trained and scored on a function of its own input, and agreement with them says nothing about "
    "agreement with human labels"
)

Row = dict[str, Any]


@dataclass(frozen=True)
class AnnotateReport:
    """What `annotate` filled in."""

    files: list[Path]  # manifest files; a file was rewritten if anything in it changed
    store: Path  # folder of the store with the dimensions
    filled: int  # clips that had no dimensions
    renewed: int  # clips that had pseudo dimensions before
    kept: int  # clips with dimensions from another source
    clipped: int  # clips with a value outside 0..1, which was clipped
    survey: Survey  # counts of all clips after the change


def annotate(manifest: Path, recipe: Recipe, cache: Path) -> AnnotateReport:
    """Fill the missing dimensions of a manifest file or folder; each file changes in one step.

    Dimensions that are not pseudo stay as they are; pseudo ones are replaced.

    Raises:
        ManifestError: a line, or the report of `prepare`, cannot be read.
        ConfigError: the recipe has no emotion encoder with a dimension head.
        StoreError: the cache has no store of this encoder, or lacks a clip.
    """
    encoder = recipe.vad_encoder
    if encoder is None:
        kinds = ", ".join(e.kind for e in recipe.encoders.values())
        raise ConfigError(
            f"recipe {recipe.name!r}: found encoders {kinds}, which give no dimensions; expected "
            "one of kind 'wav2vec2-emotion', as in recipe 're-llm'"
        )
    folder = manifest if manifest.is_dir() else manifest.parent
    with hold_folder(folder):
        return _annotate(manifest, folder, recipe.name, encoder, cache)


def _annotate(
    manifest: Path, folder: Path, recipe: str, encoder: EncoderConfig, cache: Path
) -> AnnotateReport:
    """Fill dimensions in a folder that this command holds; see `annotate`."""
    files = manifest_files(manifest)
    rows = {file: list(read_lines(file)) for file in files}
    labels = read_labels(folder)
    clips = {
        f: [parse_utterance(r, f.resolve().parent, w, labels) for w, r in rows[f]] for f in files
    }
    to_fill = [u for f in files for u in clips[f] if u.vad is None or u.vad_source == "pseudo"]
    store = FeatureStore.find(cache, encoder.spec)
    store.require((u.id for u in to_fill), f"rellm extract {manifest} --recipe {recipe}")
    given = {u.id: _dimensions(store, u) for u in to_fill}
    prepared = read_report(folder)
    for file in files:
        _rewrite(file, [row for _, row in rows[file]], clips[file], given)
    now = [_annotated(u, given) for f in files for u in clips[f]]
    report = AnnotateReport(
        files=files,
        store=store.path,
        filled=sum(u.vad is None for u in to_fill),
        renewed=sum(u.vad is not None for u in to_fill),
        kept=len(now) - len(to_fill),
        clipped=sum(bool(((vad < 0) | (vad > 1)).any()) for vad in given.values()),
        survey=survey(now),
    )
    write_json(_beside(manifest), _to_json(report, store), ensure_ascii=False)
    if prepared is not None:
        update_report(folder, prepared)
    return report


def _dimensions(store: FeatureStore, utterance: Utterance) -> np.ndarray:
    """(3,) float32 arousal, dominance, valence, predicted by the head."""
    vad = store.vad(utterance.id)
    if vad is None or not np.isfinite(vad).all():
        found = "none" if vad is None else str(vad.tolist())
        raise StoreError(
            f"{display_path(store.path)}: dimensions of clip {utterance.id!r}: {found}; expected "
            "three numbers of the encoder's head. Extract these clips into another --cache"
        )
    return vad


def _bounded(vad: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in np.clip(vad, 0, 1)]


def _annotated(utterance: Utterance, given: dict[str, np.ndarray]) -> Utterance:
    if (vad := given.get(utterance.id)) is None:
        return utterance
    arousal, dominance, valence = _bounded(vad)
    return dataclasses.replace(utterance, vad=(arousal, dominance, valence), vad_source="pseudo")


def _rewrite(
    file: Path, rows: list[Row], clips: list[Utterance], given: dict[str, np.ndarray]
) -> None:
    """Rewrite a file with new dimensions and their source; keep all other fields."""
    new = []
    for row, clip in zip(rows, clips, strict=True):
        vad = given.get(clip.id)
        changed = {} if vad is None else {"vad": _bounded(vad), "vad_source": "pseudo"}
        new.append({**row, **changed})
    if new != rows:
        write_lines(file, new)


def _beside(manifest: Path) -> Path:
    """Path of the annotations file: in a manifest folder, or next to a single manifest file."""
    if manifest.is_dir():
        return manifest / ANNOTATIONS
    return manifest.with_name(f"{manifest.stem}.{ANNOTATIONS}")


def _to_json(report: AnnotateReport, store: FeatureStore) -> dict[str, Any]:
    return {
        "vad_source": "pseudo",
        "encoder": store.spec.to_json(),
        "store": display_path(report.store),
        "note": FUNCTION_OF_INPUT,
        "filled": report.filled,
        "renewed": report.renewed,
        "kept": report.kept,
        "clipped": report.clipped,
        **report.survey.to_json(),
    }
