"""Which of several is asked for. In: a spec, what the cache holds. Out: one, or the nearest."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from rellm_cache.config.specs import CachedSpec
from rellm_cache.errors import StoreError

Spec = TypeVar("Spec", bound=CachedSpec)


def find_match(
    spec: Spec, held: Sequence[tuple[Path, Spec]], where: str, what: str, table: str
) -> Path | None:
    """Where what `spec` asks for lies; None where nothing is it.

    Args:
        held: where each thing lies, and the spec that made it.
        where: the cache, as messages name it.
        what: is held, in the plural, as "stores hold whisper tiny".
        table: of the recipe that can pin weights, as messages name it.

    Raises:
        StoreError: more than one is, with different weights, and the recipe pins none.
    """
    matches = [(path, other) for path, other in held if not spec.differences(other)]
    if len(matches) > 1:
        pins = ", ".join(
            f'weights_sha256 = "{other.weights_sha256}" ({path.name})' for path, other in matches
        )
        raise StoreError(
            f"{where}: {len(matches)} {what} with different weights; pin one in {table}: {pins}"
        )
    return matches[0][0] if matches else None


def nearest(spec: Spec, held: Sequence[tuple[Path, Spec]]) -> tuple[Path, Spec]:
    """The one of one or more that differs in the fewest fields."""
    return min(held, key=lambda item: len(spec.differences(item[1])))
