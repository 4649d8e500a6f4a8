"""Matching of recipes to stores: which store, or transcripts file, holds what a spec asks for."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from rellm_cache.config.specs import CachedSpec, EncoderSpec, StoredSpec
from rellm_cache.errors import StoreError
from rellm_cache.store.format import list_stores, read_info
from rellm_cache.store.remote.mirror_paths import display_path

Spec = TypeVar("Spec", bound=CachedSpec)


def find_store(cache: Path, spec: StoredSpec) -> Path:
    """Return the store that matches the encoder of a recipe.

    A store with more layers matches too, if none has exactly those of the recipe.

    Raises `StoreError` if none matches; the message names the fields in which the nearest store
    differs. Raises it too if several match with different weights and the recipe pins none.
    """
    if not cache.is_dir():
        raise StoreError(
            f"{display_path(cache)}: this cache folder does not exist; give the folder of the "
            f"stores with --cache, or make them with `{spec.command}`"
        )
    stores = [(path, read_info(path).spec) for path in list_stores(cache)]
    what = f"stores hold {spec.kind} {spec.model}"
    if (match := find_match(spec, stores, display_path(cache), what, "the recipe")) is not None:
        return match
    same_kind = [(path, found) for path, found in stores if found.kind == spec.kind]
    if not same_kind:
        raise StoreError(
            f"{display_path(cache)}: found no store of {_describe(spec)}; make it with "
            f"`{spec.command}`"
        )
    path, found = nearest(spec, same_kind)
    if (
        isinstance(spec, EncoderSpec)
        and spec.dtype == "int8"
        and not dataclasses.replace(spec, dtype="float16").unmet_by(found)
    ):
        raise StoreError(
            f"{display_path(path)}: holds these frames as float16, the recipe asks for int8; make "
            f"that with `rellm cache quantize {display_path(path)}`"
        )
    raise StoreError(
        f"{display_path(path)}: a store of another fingerprint; "
        f"{'; '.join(spec.unmet_by(found))}; run `{spec.command}` with this recipe, or name "
        "this store's encoder in the recipe"
    )


def _describe(spec: StoredSpec) -> str:
    kind = "encoder " if isinstance(spec, EncoderSpec) else ""
    return f"{kind}{spec.kind} {spec.model}"


def find_match(
    spec: Spec, candidates: Sequence[tuple[Path, Spec]], where: str, what: str, table: str
) -> Path | None:
    """Return the path of the candidate that matches `spec`; None if there is none.

    Of several with the same weights, it has the fewest layers.

    Raises `StoreError` if several match with different weights and the recipe pins none.

    Args:
        candidates: path and spec of everything in the cache.
        where: the cache, for messages.
        what: the candidates in the plural, for messages: "stores hold whisper tiny".
        table: the table of the recipe that can pin weights, for messages.
    """
    matches = [(path, other) for path, other in candidates if not spec.unmet_by(other)]
    if len({other.weights_sha256 for _, other in matches}) > 1:
        pins = ", ".join(
            f'weights_sha256 = "{other.weights_sha256}" ({path.name})' for path, other in matches
        )
        raise StoreError(
            f"{where}: {len(matches)} {what} with different weights; pin one in {table}: {pins}"
        )
    return min(matches, key=lambda match: _layer_count(match[1]))[0] if matches else None


def _layer_count(spec: CachedSpec) -> int:
    return len(spec.layer_numbers) if isinstance(spec, StoredSpec) else 0


def nearest(spec: Spec, candidates: Sequence[tuple[Path, Spec]]) -> tuple[Path, Spec]:
    """Return the candidate that differs in the fewest fields."""
    return min(candidates, key=lambda item: len(spec.unmet_by(item[1])))
