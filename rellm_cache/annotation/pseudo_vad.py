"""annotate. In: a manifest and a cache. Out: the manifest, its missing dimensions filled.

The emotion encoder's own head gives arousal, dominance and valence of every clip it encodes; they
lie in its store beside the frames. As targets they are marked `pseudo`: a function of the input.

<folder>/annotations.json    which encoder gave them, to how many clips
<folder>/report.json         of `prepare`, if it is there: its clips are counted anew
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import Utterance, manifest_files, parse_utterance, read_lines
from rellm_cache.corpus.statistics import Survey, read_report, survey, update_report
from rellm_cache.errors import ConfigError, StoreError
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.remote.mirror_paths import display_path
from rellm_cache.utils.atomic_files import write_json, write_lines

ANNOTATIONS = "annotations.json"
FUNCTION_OF_INPUT = (
    "pseudo dimensions are a function of the emotion encoder's frames: a model that hears that "
    "stream is trained, and scored, on what it was given; to agree with it is not to agree with "
    "people"
)

Row = dict[str, Any]


@dataclass(frozen=True)
class AnnotateReport:
    """What was filled in.

    Attributes:
        files: manifest files, each rewritten if anything in it changed.
        store: that the dimensions are from.
        filled: clips that had none.
        renewed: clips that had pseudo dimensions before.
        kept: clips whose dimensions are someone else's.
        clipped: clips of which the head gave a value beyond 0..1, set to the bound.
        survey: of all clips, as they are now.
    """

    files: list[Path]
    store: Path
    filled: int
    renewed: int
    kept: int
    clipped: int
    survey: Survey


def annotate(manifest: Path, recipe: Recipe, cache: Path) -> AnnotateReport:
    """Fill the missing dimensions of a manifest file or folder; each file changes in one step.

    Dimensions that are not pseudo stay as they are; pseudo ones are taken anew.

    Raises:
        ManifestError: a line, or the report of `prepare`, cannot be read.
        ConfigError: the recipe has no emotion encoder with a head for dimensions.
        StoreError: the cache has no store of it, or lacks a clip.
    """
    encoder = recipe.vad_encoder
    if encoder is None:
        kinds = ", ".join(e.kind for e in recipe.encoders.values())
        raise ConfigError(
            f"recipe {recipe.name!r}: found encoders {kinds}, which give no dimensions; expected "
            "one of kind 'wav2vec2-emotion', as in recipe 're-llm'"
        )
    files = manifest_files(manifest)
    rows = {file: list(read_lines(file)) for file in files}
    clips = {f: [parse_utterance(r, f.resolve().parent, w) for w, r in rows[f]] for f in files}
    open_ = [u for f in files for u in clips[f] if u.vad is None or u.vad_source == "pseudo"]
    store = FeatureStore.find(cache, encoder.spec)
    store.require((u.id for u in open_), f"rellm extract {manifest} --recipe {recipe.name}")
    given = {u.id: _dimensions(store, u) for u in open_}
    folder = manifest if manifest.is_dir() else manifest.parent
    prepared = read_report(folder)
    for file in files:
        _rewrite(file, [row for _, row in rows[file]], clips[file], given)
    now = [_annotated(u, given) for f in files for u in clips[f]]
    report = AnnotateReport(
        files=files,
        store=store.path,
        filled=sum(u.vad is None for u in open_),
        renewed=sum(u.vad is not None for u in open_),
        kept=len(now) - len(open_),
        clipped=sum(bool(((vad < 0) | (vad > 1)).any()) for vad in given.values()),
        survey=survey(now),
    )
    write_json(_beside(manifest), _to_json(report, store), ensure_ascii=False)
    if prepared is not None:
        update_report(folder, prepared)
    return report


def _dimensions(store: FeatureStore, utterance: Utterance) -> np.ndarray:
    """(3,) float32 arousal, dominance, valence, as the head gave them."""
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
    """Rows keep every field that they have; only dimensions and their source change."""
    new = []
    for row, clip in zip(rows, clips, strict=True):
        vad = given.get(clip.id)
        changed = {} if vad is None else {"vad": _bounded(vad), "vad_source": "pseudo"}
        new.append({**row, **changed})
    if new != rows:
        write_lines(file, new)


def _beside(manifest: Path) -> Path:
    """Of a manifest folder, in it; of a single file, beside it under its name."""
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
