"""Soft labels: the shares of raters that heard each emotion in a clip.

In a manifest, `emotion` is then an object: `{"angry": 0.6, "sad": 0.4}`, or whole numbers of votes.
The majority is the one emotion with the largest share. A tie has none: such a clip counts in the
cross entropy and in the KL divergence, but not in accuracy and UA.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rellm_cache.corpus.field_validation import is_number
from rellm_cache.errors import ManifestError

Shares = Mapping[str, float]  # emotion → share of raters; they sum to 1

TOLERANCE = 1e-3  # of the sum of shares
DIGITS = 6


def shares_of_votes(votes: Iterable[str]) -> dict[str, float]:
    """Shares of emotions among votes, the most frequent first, then by name."""
    counts = Counter(votes)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {name: round(count / counts.total(), DIGITS) for name, count in ordered}


def read_shares(
    value: Mapping[str, Any], where: str, name_of: Callable[[str, str], str]
) -> dict[str, float]:
    """The shares in a manifest's `emotion`; emotions without a share are left out.

    Args:
        name_of: from a label and `where` to an emotion; shares of equal emotions are added.

    Raises:
        ManifestError: the numbers are neither shares that sum to 1 nor whole numbers of votes.
    """
    numbers = list(value.values())
    total = sum(numbers) if all(is_number(n) and n >= 0 for n in numbers) else 0
    is_votes = all(isinstance(n, int) for n in numbers)
    if not total or not (is_votes or abs(total - 1) <= TOLERANCE):
        raise ManifestError(
            f"{where}: found emotion {dict(value)}, expected shares that sum to 1 or whole numbers "
            'of votes, as {"angry": 0.6, "sad": 0.4} or {"angry": 3, "sad": 2}'
        )
    shares: dict[str, float] = {}
    for label, number in value.items():
        if number:
            name = name_of(label, where)
            shares[name] = shares.get(name, 0.0) + number / total
    return shares


def majority(shares: Shares) -> str | None:
    """The emotion with the largest share; None if two share it."""
    first, *others = sorted(shares.values(), reverse=True)
    tied = bool(others) and first - others[0] <= TOLERANCE
    return None if tied else max(shares, key=lambda name: shares[name])


def listed_shares(shares: Shares, emotions: Sequence[str]) -> tuple[float, ...] | None:
    """Shares (C,) of the emotions of a recipe, which sum to 1; None if no rater named one."""
    known = [shares.get(name, 0.0) for name in emotions]
    total = sum(known)
    return tuple(share / total for share in known) if total else None
