"""Check: what was looked at on a machine, what was found, and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Attributes:
        group: what it belongs to, as `libraries` or `GPU`.
        name: what was checked.
        status: `error` if a command of rellm cannot work, `warning` if it works worse.
        found: what is there.
        fix: what to do; empty if the status is ok.
    """

    group: str
    name: str
    status: Status
    found: str
    fix: str = ""


def healthy(checks: Iterable[Check]) -> bool:
    """Whether no check is an error."""
    return all(check.status != "error" for check in checks)
