"""Cache speed compared with other storage formats for features, all in one run.

    pip install -e .[bench]
    python tests/benchmarks/store.py --json store.json --plot store.svg
    python tests/benchmarks/store.py --quick

Formats take turns in each repetition, so that other load on the machine affects all of them.
Results are ratios of medians. Reads are warm (page cache, as written). The cold read comes last,
because data that a kernel reads again may lie in memory in larger pieces. MB/s count useful float16
bytes, no padding. Two groups of formats are each compared with the cache and the memmap. Features
take about six times `--megabytes` on disk and must fit into the page cache.
"""

import mmap
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from extraction import extract_overhead
from features import SIZES, Corpus
from options import make_parser, write_figures
from peers import BATCH, FILES, GROUPS, OWN, PEERS, Buffers, Memmap, Peer, Rellm, specs
from torch.utils.data import DataLoader, Dataset

from rellm_cache.cache_admin.quantize import quantize
from rellm_cache.config.specs import EncoderSpec
from rellm_cache.data.batch import Example
from rellm_cache.data.loader import BatchLoader
from rellm_cache.data.sampler import bucketed_batches
from rellm_cache.data.streams import StreamSet
from rellm_cache.store.format import StoreInfo, store_path
from rellm_cache.store.part_writer import Row, write_part
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.writer import StoreWriter

EPOCHS = 20
TURN_SECONDS = 1.0
REQUESTS, REQUEST_BYTES = 8, 1 << 19  # at once, to a disk without the page cache
INDEX_CLIPS, INDEX_PARTS = 1_000_000, 200
PEER_LIBRARIES = ("h5py", "safetensors", "tensorstore", "lhotse", "webdataset", "zarrs")
Rates = dict[str, list[float]]
Run = Callable[[int], None]


@dataclass(frozen=True)
class Bench:
    """One run of the benchmark.

    Attributes:
        corpus: the made features.
        folder: with a folder for each peer.
        repetitions: of every contender.
    """

    corpus: Corpus
    folder: Path
    repetitions: int

    def take_turns(
        self, contenders: dict[str, Run], before: Callable[[], None] | None = None
    ) -> Rates:
        """MB/s of each contender in each repetition, after one that does not count.

        Args:
            before: is called, untimed, ahead of each turn, which is one pass then; else a turn is
                as many passes as fill `TURN_SECONDS`, since a machine's rate may change within one.
        """
        rates: Rates = {name: [] for name in contenders}
        for repetition in range(self.repetitions + 1):
            order = list(contenders.items())
            turn = repetition % len(order)
            for name, run in order[turn:] + order[:turn]:
                if before is not None:
                    before()
                passes, seconds = 0, 0.0
                start = time.perf_counter()
                while not passes or (before is None and seconds < TURN_SECONDS):
                    run(repetition + passes)
                    passes += 1
                    seconds = time.perf_counter() - start
                if repetition:
                    rates[name].append(passes * self.corpus.nbytes / 1e6 / seconds)
        return rates

    def buffers(self) -> Buffers:
        """Memory for the largest batch, touched already."""
        longest = int(self.corpus.lengths.max())
        return {s: np.ones((BATCH, longest, size), np.float16) for s, size in SIZES.items()}

    def place(self, name: str) -> Path:
        """The folder of a peer."""
        return self.folder / FILES.get(name, name).replace(" ", "-")

    def frames(self, dtype: str = "float16") -> StreamSet:
        """This package's stores, freshly opened."""
        folder = self.place("rellm")
        return StreamSet(
            {
                name: FeatureStore(store_path(folder, replace(spec, dtype=dtype)))
                for name, spec in specs().items()
            }
        )

    def plan(self, epoch: int) -> list[list[int]]:
        """Batches of similar length, as training has them."""
        return bucketed_batches(self.corpus.lengths.tolist(), BATCH, 1, epoch)

    def loader(self, frames: StreamSet) -> BatchLoader:
        """Over every utterance."""
        return BatchLoader([Example(key) for key in self.corpus.ids], frames)


def median_ratio(rates: Rates, over: str, under: str) -> float:
    """Median rate of one contender over that of another."""
    return statistics.median(rates[over]) / statistics.median(rates[under])


def warm(bench: Bench, names: Iterable[str]) -> Rates:
    """Random batches copied into reused buffers by one thread."""
    out = bench.buffers()
    opened = {name: PEERS[name](bench.place(name), bench.corpus) for name in names}
    for name, peer in opened.items():
        check(name, peer, bench.corpus, out)

    def reader(peer: Peer) -> Run:
        def run(repetition: int) -> None:
            for batch in bench.corpus.batches(BATCH, repetition):
                peer.read(batch, out)

        return run

    return bench.take_turns({name: reader(peer) for name, peer in opened.items()})


def write(bench: Bench, names: Iterable[str]) -> None:
    """Have peers write the corpus, each in its folder, unless another one did for it."""
    for name in names:
        if not bench.place(name).exists():
            bench.place(name).mkdir()
            with told(f"writing {name}"):
                PEERS[name].write(bench.place(name), bench.corpus)


def check(name: str, peer: Peer, corpus: Corpus, out: Buffers) -> None:
    """End the run unless a peer reads what was written."""
    batch = [0, corpus.utterances // 2, corpus.utterances - 1]
    taken = peer.read(batch, out)
    for stream in SIZES:
        for row, index in enumerate(taken):
            if not np.array_equal(
                out[stream][row, : corpus.lengths[index]], corpus.frames(stream, index)
            ):
                raise SystemExit(f"{name} does not read what was written")


class Utterances(Dataset[tuple[np.ndarray, np.ndarray]]):
    """Both streams of an utterance, as a torch data set over the same stores."""

    def __init__(self, bench: Bench) -> None:
        self.frames, self.ids = bench.frames(), bench.corpus.ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        key = self.ids[index]
        speech, emotion = self.frames.sources.values()
        return speech.frames(key), emotion.frames(key)


def pad(clips: list[tuple[np.ndarray, np.ndarray]]) -> tuple[torch.Tensor, ...]:
    """A padded batch, made in the worker."""
    lengths = [len(speech) for speech, _ in clips]
    batch = []
    for stream, size in enumerate(SIZES.values()):
        padded = torch.zeros(len(clips), max(lengths), size, dtype=torch.float16)
        array = padded.numpy()
        for row, clip in enumerate(clips):
            array[row, : lengths[row]] = clip[stream]
        batch.append(padded)
    return (*batch, torch.tensor(lengths))


def loaders(bench: Bench) -> Rates:
    """Complete padded batches handed to a consumer that only takes them, in the same order.

    Beside them a mapped file whose bytes are copied without padding, by one thread.
    """
    loader = bench.loader(bench.frames())
    eight_bits = bench.loader(bench.frames("int8"))
    peer, out = Memmap(bench.place("memmap"), bench.corpus), bench.buffers()

    def copied(repetition: int) -> None:
        for batch in bench.plan(repetition):
            peer.read(batch, out)

    def mine(loader: BatchLoader) -> Run:
        def run(repetition: int) -> None:
            for _ in loader.batches(bench.plan(repetition), reuse_memory=True):
                pass

        return run

    def torchs(repetition: int) -> None:
        # Workers live for all repetitions, as with `persistent_workers`; their start is not timed.
        sampler.batches = bench.plan(repetition)
        for _ in dataloader:
            pass

    sampler = Plan(bench.plan(0))
    dataloader = DataLoader(
        Utterances(bench),
        batch_sampler=sampler,
        num_workers=2,
        collate_fn=pad,
        persistent_workers=True,
    )
    # Its workers are forked in the first turn, before the loaders have memory: a fork would make
    # them copy each page of it once more, in a repetition that counts.
    return bench.take_turns(
        {
            "DataLoader, 2 workers": torchs,
            "loader": mine(loader),
            "loader, int8": mine(eight_bits),
            "memmap beside the loader": copied,
        }
    )


class Plan:
    """A batch sampler whose batches are given."""

    def __init__(self, batches: list[list[int]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def cold(bench: Bench) -> Rates:
    """Batches of files that are not in memory: a mapped file by one thread, and the loader.

    Beside them the disk itself: the same bytes past the page cache, several requests at a time.
    """
    out = bench.buffers()
    frames = bench.frames()
    loader = bench.loader(frames)

    def mapped(repetition: int) -> None:
        peer = Memmap(bench.place("memmap"), bench.corpus)
        for batch in bench.plan(repetition):
            peer.read(batch, out)

    def loaded(repetition: int) -> None:
        for _ in loader.batches(bench.plan(repetition), reuse_memory=True):
            pass

    def drop() -> None:
        for store in frames.sources.values():
            store.close()  # mapped pages stay in memory
        for name in ("memmap", "rellm"):
            for file in bench.place(name).rglob("*"):
                if file.is_file():
                    forget(file)

    def requested(repetition: int) -> None:
        files = [bench.place("memmap") / stream for stream in SIZES]
        with ThreadPoolExecutor(REQUESTS) as threads:
            for read in threads.map(read_past_the_cache, *pieces_of(files, repetition)):
                assert read

    contenders = {"cold memmap": mapped, "cold loader": loaded, "disk alone": requested}
    return bench.take_turns(contenders, drop)


def pieces_of(files: list[Path], seed: int) -> tuple[list[Path], list[int]]:
    """Files and places in them, in random order, that cover all of them."""
    pieces = [(f, i) for f in files for i in range(0, f.stat().st_size, REQUEST_BYTES)]
    random.Random(seed).shuffle(pieces)
    return [file for file, _ in pieces], [place for _, place in pieces]


def read_past_the_cache(file: Path, place: int) -> int:
    """Bytes of one request, read into memory that is dropped."""
    with mmap.mmap(-1, REQUEST_BYTES) as memory:
        handle = os.open(file, os.O_RDONLY | os.O_DIRECT)
        try:
            return os.preadv(handle, [memory], place)
        finally:
            os.close(handle)


def forget(file: Path) -> None:
    """Drop a file from the page cache; it must be on disk and mapped by nobody."""
    handle = os.open(file, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def writing(bench: Bench) -> Rates:
    """Both streams written and synced: by the store's writer, and as raw arrays."""

    def fresh(name: str, repetition: int) -> Path:
        folder = bench.folder / f"writing-{name}-{repetition}"
        folder.mkdir()
        return folder

    def stored(repetition: int) -> None:
        Rellm.write(fresh("rellm", repetition), bench.corpus)

    def raw(repetition: int) -> None:
        folder = fresh("raw", repetition)
        Memmap.write(folder, bench.corpus)
        for file in folder.iterdir():
            handle = os.open(file, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)

    def clear() -> None:
        subprocess.run(["sh", "-c", f"rm -rf '{bench.folder}'/writing-*; sync"], check=True)

    rates = bench.take_turns({"write rellm": stored, "write raw": raw}, clear)
    clear()
    return rates


def resident_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def memory_growth(bench: Bench) -> float:
    """MB by which twenty epochs exceed the first, mapped files included."""
    loader = bench.loader(bench.frames())
    sizes = []
    for epoch in range(EPOCHS + 1):
        for _ in loader.batches(bench.plan(epoch), reuse_memory=True):
            pass
        sizes.append(resident_mb())
    return max(sizes[1:]) - sizes[0]


OPEN_INDEX = """
import sys, time
from pathlib import Path
from rellm_cache.store.reader import FeatureStore
start = time.perf_counter()
store = FeatureStore(Path(sys.argv[1]))
seconds = time.perf_counter() - start
assert len(store) == int(sys.argv[2])
status = Path("/proc/self/status").read_text().splitlines()
peak = next(line.split()[1] for line in status if line.startswith("VmHWM"))
print(seconds, int(peak) * 1024 / 1e6)
"""


def open_index(bench: Bench) -> dict[str, float]:
    """Seconds and peak resident MB of a process that opens a million utterances in 200 parts."""
    info = StoreInfo(EncoderSpec(kind="prosody"), 1, "made")
    with StoreWriter(bench.folder / "index", info) as writer:
        path = writer.path
    digest, frames = np.zeros(32, np.uint8), np.ones((1, 1), np.float16)
    clips = INDEX_CLIPS // INDEX_PARTS
    for part in range(INDEX_PARTS):
        rows = [
            Row(f"corpus/speaker{i % 2000:04d}/utterance{i:07d}", digest, frames)
            for i in range(part * clips, (part + 1) * clips)
        ]
        write_part(path / f"part-{part + 1:06d}-00000000", rows, info)
    seconds, memory = [], []
    for _ in range(bench.repetitions):
        command = [sys.executable, "-c", OPEN_INDEX, str(path), str(INDEX_CLIPS)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        taken, peak = map(float, done.stdout.split())
        seconds.append(taken)
        memory.append(peak)
    return {
        "index_open_s": statistics.median(seconds),
        "index_rss_mb": statistics.median(memory),
    }


def measure(bench: Bench, models: Path | None) -> tuple[dict[str, float], Rates]:
    """All figures of the table, and the rates they were made from."""
    rates = writing(bench)
    write(bench, OWN)
    for group in GROUPS:
        write(bench, group)
        with told("warm"):
            rates = warm(bench, (*OWN, *group)) | rates  # its own rates are those beside the first
        for name in group:
            shutil.rmtree(bench.place(name), ignore_errors=True)
    for path in sorted(bench.place("rellm").glob("*/zarr.json")):
        quantize(path.parent)
    with told("loaders"):
        rates |= loaders(bench)
    with told("cold"):
        rates |= cold(bench)
    figures = {
        "warm_vs_memmap": median_ratio(rates, "rellm", "memmap"),
        "warm_vs_safetensors": median_ratio(rates, "rellm", "safetensors"),
        "warm_vs_hdf5": median_ratio(rates, "rellm", "HDF5, flat"),
        "warm_vs_tensorstore": median_ratio(rates, "rellm", "tensorstore"),
        "warm_vs_zarr": median_ratio(rates, "rellm", "zarr-python"),
        "loader_vs_dataloader": median_ratio(rates, "loader", "DataLoader, 2 workers"),
        "loader_vs_memmap": median_ratio(rates, "loader", "memmap beside the loader"),
        "cold_vs_memmap": median_ratio(rates, "cold loader", "cold memmap"),
        "int8_vs_fp16": median_ratio(rates, "loader, int8", "loader"),
        "write_vs_raw": median_ratio(rates, "write rellm", "write raw"),
    }
    if models is not None:
        with told("extraction"):
            figures["extract_overhead"] = extract_overhead(models, bench.folder, bench.repetitions)
    with told("twenty epochs"):
        figures["rss_growth_mb"] = memory_growth(bench)
    with told("index"):
        figures |= open_index(bench)
    return figures, rates


@contextmanager
def told(what: str) -> Iterator[None]:
    """Say on standard error what is under way and how long it took."""
    start = time.perf_counter()
    print(f"{what} …", end=" ", file=sys.stderr, flush=True)
    yield
    print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)


def show(figures: dict[str, float], rates: Rates) -> None:
    """Print rates and figures."""
    print(f"{'MB/s':>28} {'median':>8} {'least':>8} {'most':>8}")
    for name, values in rates.items():
        row = (statistics.median(values), min(values), max(values))
        print(f"{name:>28} " + " ".join(f"{value:8.0f}" for value in row))
    print()
    for name, value in figures.items():
        print(f"{name:>28} {value:8.2f}")


def plot(file: Path, rates: Rates, title: str) -> None:
    """Median rates as bars, least and most as whiskers."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    names = list(rates)[::-1]
    medians = [statistics.median(rates[n]) for n in names]
    spread = [
        [m - min(rates[n]) for n, m in zip(names, medians, strict=True)],
        [max(rates[n]) - m for n, m in zip(names, medians, strict=True)],
    ]
    own = ("rellm", "loader", "loader, int8", "cold loader", "write rellm")
    colours = ["#1f6f8b" if n in own else "#b8c4c9" for n in names]
    figure, axes = pyplot.subplots(figsize=(8, 0.36 * len(names) + 1.2), layout="constrained")
    axes.barh(names, medians, xerr=spread, color=colours, ecolor="#555", capsize=2)
    axes.set_xlabel("useful MB/s: median, least, most")
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file)


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--megabytes", type=int, default=2000, help="of features (default: 2000)")
    parser.add_argument("--quick", action="store_true", help="200 MB and 3 repetitions")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: temporary)")
    parser.add_argument("--models", type=Path, help="model root, to time extraction as well")
    parser.add_argument("--plot", type=Path, help="an SVG or PNG")
    options = parser.parse_args()
    megabytes, repetitions = (200, 3) if options.quick else (options.megabytes, options.repetitions)
    corpus = Corpus(max(2 * BATCH, megabytes))  # an utterance is about a megabyte
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        bench = Bench(corpus, Path(folder), repetitions)
        figures, rates = measure(bench, options.models)
    show(figures, rates)
    write_figures(
        options,
        {name: round(value, 3) for name, value in figures.items()},
        rates_mb_s={n: [round(r, 1) for r in values] for n, values in rates.items()},
        megabytes=round(corpus.nbytes / 1e6),
        peers={name: version(name) for name in PEER_LIBRARIES},
    )
    if options.plot:
        title = (
            f"{corpus.nbytes / 1e9:.1f} GB of features, random batches of {BATCH}, "
            f"{os.cpu_count()} cores"
        )
        plot(options.plot, rates, title)


if __name__ == "__main__":
    main()
