"""RAVDESS as parquet, `save_to_disk`, tar and zip: the same as the folder, and how fast it is read.

    python tests/benchmarks/containers.py RAVDESS --work FOLDER --extract 60
    python tests/benchmarks/containers.py RAVDESS --work FOLDER --clips 60 --repeats 1     # a try

Every form is prepared by its own reader. Manifests are compared without the places of sound, then
the digests of all clips, then the frames of `--extract` clips, each form in a cache of its own.
For reading, the forms take turns in each repeat; a figure is the median of ratios to the sound
files of the folder, in seconds of the clock and of the processor. All is in the page cache. The
work folder takes six times the corpus.
"""

import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from options import make_parser, rounded, write_figures

from rellm_cache.config.recipes import load_recipe
from rellm_cache.corpus import arrow_tables
from rellm_cache.corpus.audio import load_clip
from rellm_cache.corpus.audio_source import audio_digest
from rellm_cache.corpus.manifest import Utterance, read_manifests, write_manifest
from rellm_cache.corpus.readers.ravdess import RavdessOptions, read_ravdess_speakers
from rellm_cache.extraction.options import ExtractionOptions
from rellm_cache.extraction.run import extract
from rellm_cache.store.reader import FeatureStore

sys.path.insert(0, str(Path(__file__).parents[1] / "miniature"))

from containers import KINDS, prepared, without_place

FILES = "files"
GROUP = 100  # rows in a row group of parquet
FAR_APART = 60  # clips of a read that finds few row groups again
Work = Callable[[Utterance], object]
WORK: dict[str, Work] = {"bytes and digest": audio_digest, "decoding": load_clip}


def compare(
    clips: dict[str, list[Utterance]], count: int, work: Path, workers: int, recipe: str
) -> None:
    """Assert equal digests of all clips, and equal frames of some; prints both."""
    digests = {kind: [audio_digest(u).tobytes() for u in found] for kind, found in clips.items()}
    for kind, found in digests.items():
        assert found == digests[FILES], f"{kind}: other digests"
    print(f"{len(digests[FILES])} digests are equal in {len(digests)} forms", flush=True)
    if not count:
        return
    stores: dict[str, list[FeatureStore]] = {}
    for kind, found in clips.items():
        manifest = work / f"extract/{kind}.jsonl"
        manifest.parent.mkdir(exist_ok=True)
        write_manifest(manifest, found[:: len(found) // count][:count])
        reports = extract(
            manifest, load_recipe(recipe), work / f"caches/{kind}",
            options=ExtractionOptions(workers=workers),
        )  # fmt: skip
        assert not any(report.failed for report in reports)
        stores[kind] = [FeatureStore(report.path) for report in reports]
    for kind, found_stores in stores.items():
        for store, expected in zip(found_stores, stores[FILES], strict=True):
            assert sorted(store.ids) == sorted(expected.ids)
            for name in store.ids:
                assert store.audio_sha256(name) == expected.audio_sha256(name)
                np.testing.assert_array_equal(
                    store.verified_frames(name), expected.verified_frames(name), f"{kind} {name}"
                )
    streams = len(stores[FILES])
    print(f"frames of {count} clips and {streams} streams are equal in {len(stores)} forms")


def seconds(work: Work, clips: Sequence[Utterance]) -> np.ndarray:
    """(2,) seconds of the clock and of the processor for all clips."""
    start = np.array([time.perf_counter(), time.process_time()])
    for clip in clips:
        work(clip)
    return np.array([time.perf_counter(), time.process_time()]) - start


def measure(clips: dict[str, list[Utterance]], repeats: int) -> dict[str, dict[str, float]]:
    """Ratios of seconds to those of files, by work and form; and clips a second of files."""
    figures: dict[str, dict[str, float]] = {}
    for name, work in WORK.items():
        for order in ("in order", "shuffled"):
            ways = {kind: list(found) for kind, found in clips.items()}
            for found in ways.values() if order == "shuffled" else ():
                random.Random(1).shuffle(found)
            taken: dict[str, list[np.ndarray]] = {kind: [] for kind in ways}
            for repeat in range(repeats + 1):  # the first one fills the page cache
                for kind, found in ways.items():
                    spent = seconds(work, found)
                    if repeat:
                        taken[kind].append(spent)
            count = len(ways[FILES])
            of_files = statistics.median(spent[1] for spent in taken[FILES])
            row = {"clips per processor second": count / of_files}
            for kind in KINDS:
                pairs = zip(taken[kind], taken[FILES], strict=True)
                clock, processor = np.median([one / other for one, other in pairs], axis=0)
                row |= {f"{kind}, clock": clock, f"{kind}, processor": processor}
            figures[f"{name}, {order}"] = rounded(row)
            print(f"{name}, {order}: {figures[f'{name}, {order}']}", flush=True)
    return figures


def measure_misses(clips: dict[str, list[Utterance]], repeats: int) -> float:
    """Processor seconds of a clip of parquet whose row group was not read lately, to a file's."""
    ratios = []
    for repeat in range(repeats):
        spent = {}
        for kind in (FILES, "parquet"):
            far = clips[kind][:: max(len(clips[kind]) // FAR_APART, 1)]
            random.Random(repeat).shuffle(far)
            arrow_tables.KEPT_BYTES = 1
            spent[kind] = seconds(load_clip, far)[1]
        ratios.append(spent["parquet"] / spent[FILES])
    return statistics.median(ratios)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("corpus", type=Path, help="folder of RAVDESS, with Actor_01 and so on")
    parser.add_argument("--work", type=Path, required=True, help="folder that does not exist")
    parser.add_argument("--clips", type=int, default=0, help="number of clips; 0 for all")
    parser.add_argument("--read", type=int, default=0, help="clips to read; 0 for all")
    parser.add_argument("--extract", type=int, default=0, help="clips to extract; 0 for none")
    parser.add_argument("--workers", type=int, default=0, help="worker processes of extraction")
    parser.add_argument("--recipe", default="heads")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    options.work.mkdir(parents=True)
    found = read_ravdess_speakers(options.corpus, RavdessOptions("all")).utterances
    found = found[:: max(len(found) // options.clips, 1)] if options.clips else found
    manifests = {kind: prepared(kind, options.work, found, GROUP) for kind in (FILES, *KINDS)}
    expected = without_place(manifests[FILES])
    for kind, manifest in manifests.items():
        assert without_place(manifest) == expected, f"{kind}: another manifest"
    print(f"{len(expected)} rows of the manifest are equal in {len(manifests)} forms", flush=True)
    clips = {kind: read_manifests(manifest) for kind, manifest in manifests.items()}
    compare(clips, options.extract, options.work, options.workers, options.recipe)
    if options.repeats:
        some = options.read or len(expected)
        figures = measure({kind: found[:some] for kind, found in clips.items()}, options.repeats)
        misses = measure_misses(clips, options.repeats)
        print(f"decoding, parquet, row groups not kept: {misses:.2f}", flush=True)
        write_figures(options, figures, misses=misses, clips=len(expected))


if __name__ == "__main__":
    main()
