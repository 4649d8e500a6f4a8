"""Several layers in one pass: time of an extraction, and read rate of one layer.

    python tests/benchmarks/layers.py RAVDESS --models cache/models --actors 1 2

Extraction: all layers of Whisper tiny.en against one layer, the last (`layer = -1`, the same depth)
and layer 2 (half the blocks), each into a new cache, in turns in one process. A ratio is the median
of the ratios of the turns: of the wall time, and of the processor time of this process, which other
processes of the machine change less.

Reading: layer 2 of the store of all layers against the store of layer 2 alone, same clips, in
turns: every clip copied into memory, and padded batches of the loader. `first` includes opening and
the checksums. A ratio above 1 means that the store of all layers is read faster.
"""

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from options import make_parser, rounded, write_figures

from rellm_cache.config.recipes import load_recipe
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import write_lines
from rellm_cache.data.batch import Example
from rellm_cache.data.loader import BatchLoader
from rellm_cache.data.streams import StreamSet
from rellm_cache.extraction.run import extract
from rellm_cache.store.reader import FeatureStore

KINDS = {"all": {"layers": "all"}, "last": {"layer": -1}, "two": {"layer": 2}}
BATCH = 24
PASSES = 20  # over all clips in one measurement


def recipe_of(kind: str, window: str) -> Recipe:
    """The recipe `heads` without prosody, with other layers of Whisper."""
    changes = {f"encoders.speech.{name}": value for name, value in KINDS[kind].items()}
    return load_recipe(
        "heads", {**changes, "encoders.speech.window": window, "encoders.emotion": None}
    )


def extraction_ratios(manifest: Path, window: str, turns: int, folder: Path) -> dict[str, float]:
    """Time of all layers divided by that of one layer; the first turn does not count."""
    ratios: dict[str, list[float]] = {}
    for turn in range(turns + 1):
        wall, cpu = {}, {}
        for kind in random.Random(turn).sample([*KINDS], len(KINDS)):
            begun, used = time.perf_counter(), time.process_time()
            extract(manifest, recipe_of(kind, window), folder / f"{window}-{kind}-{turn}")
            wall[kind] = time.perf_counter() - begun
            cpu[kind] = time.process_time() - used
        for one in ("last", "two") if turn else ():
            ratios.setdefault(f"extract_{window}_all_vs_{one}", []).append(wall["all"] / wall[one])
            ratios.setdefault(f"cpu_{window}_all_vs_{one}", []).append(cpu["all"] / cpu[one])
    return {name: statistics.median(found) for name, found in ratios.items()}


def read_ratios(stores: dict[str, Path], turns: int) -> dict[str, float]:
    """Read rate of layer 2 in the store of all layers, divided by that of its own store."""

    def opened(kind: str) -> FeatureStore:
        return FeatureStore(stores[kind]).select((2,))

    warm = {kind: opened(kind) for kind in ("all", "two")}
    clips = sorted(warm["two"].ids)
    memory = np.empty((max(warm["two"].lengths(clips)), warm["two"].frame_size), np.float16)
    loaders = {
        kind: BatchLoader([Example(clip) for clip in clips], StreamSet({"speech": store}))
        for kind, store in warm.items()
    }
    order = np.random.default_rng(1).permutation(len(clips)).tolist()
    plan = [order[i : i + BATCH] for i in range(0, len(order), BATCH)] * PASSES

    def copy_clips(store: FeatureStore) -> None:
        for i in order:
            frames = store.frames(clips[i])
            memory[: len(frames)] = frames

    def first(kind: str) -> None:
        copy_clips(opened(kind))

    def warm_clips(kind: str) -> None:
        for _ in range(PASSES):
            copy_clips(warm[kind])

    def batches(kind: str) -> None:
        for batch in loaders[kind].batches(plan, reuse_memory=True):
            assert batch.ids

    measured: dict[str, Callable[[str], None]] = {
        "first": first,
        "clips": warm_clips,
        "batches": batches,
    }
    rates = {}
    for name, work in measured.items():
        wall: list[float] = []
        cpu: list[float] = []
        for turn in range(turns + 1):
            seconds, used = {}, {}
            for kind in ("all", "two") if turn % 2 else ("two", "all"):
                begun, before = time.perf_counter(), time.process_time()
                work(kind)
                seconds[kind] = time.perf_counter() - begun
                used[kind] = time.process_time() - before
            if turn:
                wall.append(seconds["two"] / seconds["all"])
                cpu.append(used["two"] / used["all"])
        rates[f"read_{name}_vs_own_store"] = statistics.median(wall)
        rates[f"cpu_{name}_vs_own_store"] = statistics.median(cpu)
    return rates


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    parser.add_argument("corpus", type=Path, help="folder of RAVDESS, with Actor_01 and so on")
    parser.add_argument("--models", type=Path, required=True, help="root of converted models")
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--clips", type=int, default=48, help="to extract in each turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument(
        "--windows", nargs="*", default=["30s", "clip"], help="of the extractions; none: only read"
    )
    options = parser.parse_args()
    os.environ["RELLM_MODELS"] = str(options.models.resolve())
    files = [f for n in options.actors for f in sorted(options.corpus.glob(f"**/Actor_{n:02d}/*"))]
    rows = [{"id": f"ravdess/{f.stem}", "audio": str(f.resolve()), "text": "-"} for f in files]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_lines(folder / "some.jsonl", rows[:: max(1, len(rows) // options.clips)])
        write_lines(folder / "train.jsonl", rows)
        stores = {}
        for kind in ("all", "two"):
            recipe = recipe_of(kind, "clip")
            (report,) = extract(folder / "train.jsonl", recipe, folder / kind)
            stores[kind] = report.path
        figures = read_ratios(stores, 4 * options.turns)
        for window in options.windows:
            figures |= extraction_ratios(folder / "some.jsonl", window, options.turns, folder)
    write_figures(options, rounded(figures), clips=len(rows))


if __name__ == "__main__":
    main()
