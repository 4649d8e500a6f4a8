"""Fuzzing of readers with Hypothesis: damaged files, and the property that all readers have.

A reader returns a value or raises an error for users that names the file. It never raises another
error, never waits and never needs much memory.

    RELLM_FUZZ_SECONDS=120 python -m pytest -n 0 -s tests/fuzz     # as `make fuzz`
    RELLM_FUZZ_SEED=7 RELLM_FUZZ_SECONDS=120 ...                   # the same examples again
"""

import faulthandler
import json
import os
import random
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from rellm_cache.errors import RellmError

SECONDS = float(os.environ.get("RELLM_FUZZ_SECONDS", "0"))
QUICK = 12  # examples of each reader in an ordinary test run
ROUND = 50  # examples between two looks at the clock
HANG_SECONDS = 300  # an example of any reader takes less than a second
MEMORY_KB = 2 << 20  # 2 GiB more than before

# JSON texts that no writer of rellm makes.
ODD = (
    "null", "true", "0", "-1", "1e400", "-0.5", "NaN", "Infinity", '""', '"x"', "[]", "{}", "[1]",
    '{"a": 1}', "9" * 400, "9" * 5000, "9" * 19, "[" * 5000, "[" * 300 + "]" * 300,
    '{"a":' * 150 + "1" + "}" * 150, '"\\ud800"', '"\\u0000"', '"' + "x" * 5000 + '"', '"../x"',
    "[[], {}]", '"=1+1"', '"/dev/zero"', "1152921504606846976", "[1e9]", "", "{", '"\\',
)  # fmt: skip
MARK = "@odd@"


def fuzz(strategy: SearchStrategy[Any], check: Callable[[Any], object], cost: int = 1) -> None:
    """Run `check` on some examples, or for `RELLM_FUZZ_SECONDS`.

    Args:
        cost: how many times fewer examples an ordinary run takes, because each is slow.
    """

    def run(examples: int, number: int) -> None:
        @seed(number)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def one(value: Any) -> None:
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
            try:
                check(value)
            finally:
                faulthandler.cancel_dump_traceback_later()

        one()

    before = _peak_kb()
    if not SECONDS:
        run(max(QUICK // cost, 2), 0)
    else:
        start = int(os.environ.get("RELLM_FUZZ_SEED") or random.SystemRandom().randrange(10**6))
        end, number = time.monotonic() + SECONDS, start
        print(f"\nseed {start}", flush=True)
        while time.monotonic() < end:
            run(max(ROUND // cost, 1), number)
            number += 1
        print(f"seeds {start} to {number - 1}, {ROUND // cost} examples each", flush=True)
    assert _peak_kb() - before < MEMORY_KB


def value_or_named_error(read: Callable[[], object], *names: object) -> None:
    """Assert that a reader returns, or raises an error for users that has one of the names."""
    try:
        read()
    except RellmError as error:
        assert any(str(name) in str(error) for name in names), str(error)  # noqa: PT017


@st.composite
def damaged_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes with a few changes: other bytes, zero pages, cut, repeated."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(changed) - 1, 0)))
        kind = draw(st.integers(0, 5))
        if kind == 0:
            del changed[at:]
        elif kind == 1:
            changed[at : at + 1] = draw(st.binary(max_size=8))
        elif kind == 2:
            changed[at : at + 64] = bytes(len(changed[at : at + 64]))
        elif kind == 3:
            changed[at:at] = changed[: draw(st.integers(0, 200))]
        elif kind == 4:
            changed[at:at] = draw(st.sampled_from([b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"\x92"]))
        else:
            del changed[at : at + draw(st.integers(1, 30))]
    return bytes(changed)


@st.composite
def damaged_json(draw: st.DrawFn, document: Any) -> bytes:
    """A JSON text in which some values are other ones, or are missing; sometimes damaged bytes."""
    copy = json.loads(json.dumps(document))
    texts = []
    for _ in range(draw(st.integers(1, 3))):
        places = _places(copy)
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        if draw(st.integers(0, 4)) == 0:
            del holder[key]
        else:
            texts.append(draw(st.sampled_from(ODD)))
            holder[key] = f"{MARK}{len(texts) - 1}"
    if isinstance(copy, dict) and draw(st.integers(0, 4)) == 0:
        copy[draw(st.text(max_size=5))] = draw(st.integers())
    text = json.dumps(copy)
    for number, odd in enumerate(texts):
        text = text.replace(f'"{MARK}{number}"', odd)
    data = text.encode("utf-8", "surrogatepass")
    return draw(damaged_bytes(data)) if draw(st.integers(0, 3)) == 0 else data


@st.composite
def damaged_lines(draw: st.DrawFn, rows: list[Any]) -> bytes:
    """JSON Lines of which some are damaged."""
    lines = [json.dumps(row).encode() for row in rows]
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(rows) - 1))
        lines[at] = draw(damaged_json(rows[at]))
    return b"\n".join(lines) + draw(st.sampled_from([b"\n", b"", b"\n\n", b"\n{"]))


def damaged_file(files: Mapping[str, SearchStrategy[bytes]]) -> SearchStrategy[tuple[str, bytes]]:
    """One of some files, and its damaged content."""
    return st.sampled_from(sorted(files)).flatmap(
        lambda name: st.tuples(st.just(name), files[name])
    )


def replace(folder: Path, name: str, content: bytes) -> Callable[[], None]:
    """Replace a file; the result restores it."""
    path = folder / name
    before = path.read_bytes() if path.exists() else None
    path.write_bytes(content)

    def restore() -> None:
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)

    return restore


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Each place in a JSON value: a list or an object, and an index or a name."""
    keys = (
        range(len(value)) if isinstance(value, list) else value if isinstance(value, dict) else ()
    )
    found: list[tuple[Any, Any]] = []
    for key in keys:
        found += [(value, key), *_places(value[key])]
    return found


def _peak_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
