"""Soak test: kills `extract` many times at random moments, and checks the cache at the end.

    python tests/benchmarks/soak.py --kills 100
    python tests/benchmarks/soak.py --kills 100 --workers 4
    python tests/benchmarks/soak.py --kills 100 --workers 4 --ray

Without --workers each run of the command is killed (SIGKILL) and started again. With it, up to
three workers are killed at once, sometimes with the server that they are forked from, or the
command itself; with --ray actors. When a run completes, its cache must hold every clip exactly
once, with the same checksums as an undisturbed run. Then a new cache is started. Each clip is its
own part, so that a kill may happen anywhere within a commit.

Workers spend more time on starting than on work here. So three of four kills wait until a few more
clips are committed; the others wait for a random time.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import soundfile
import torch
from options import make_parser, write_figures

from rellm_cache.config.schema import AdapterConfig, EncoderConfig, LossesConfig, Recipe
from rellm_cache.corpus.manifest import write_lines
from rellm_cache.encoders import whisper  # noqa: F401 (imported before the fork: children share it)
from rellm_cache.extraction.options import ExtractionOptions
from rellm_cache.extraction.run import extract
from rellm_cache.store.format import list_stores
from rellm_cache.store.reader import FeatureStore

MOST_COMMITS = 20  # from one kill of workers to the next
MOST_AT_ONCE = 3
OTHERS_SHARE = 0.1  # of those moments in which the server dies, and in which the command does
END_SECONDS = 300.0  # for workers whose command was killed to commit and end


def make_corpus(folder: Path, clips: int) -> Path:
    """A manifest of short noises, each another."""
    rows = []
    for index in range(clips):
        noise = np.random.default_rng(index)
        seconds = 1.0 + 2.0 * noise.random()
        name = f"{index:03d}.wav"
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, noise.normal(0, 0.1, int(seconds * 16_000)), 16_000)
        rows.append({"id": f"noise/{index:03d}", "audio": name, "duration": seconds})
    write_lines(folder / "train.jsonl", rows)
    return folder / "train.jsonl"


def checksums(cache: Path) -> dict[str, int]:
    """id → checksum of its frames; an error unless every clip is there once and as written."""
    (path,) = list_stores(cache)
    store = FeatureStore(path)
    rows = [row for part in store.parts for row in zip(part.ids, part.frames_crc32c, strict=True)]
    if len(rows) != len(store):
        raise SystemExit(f"{path}: {len(rows)} rows for {len(store)} clips")
    for key in store.ids:
        store.verified_frames(key)
    return {key: int(checksum) for key, checksum in rows}


def committed(cache: Path) -> int:
    """How many parts there are."""
    return sum(1 for _ in cache.glob("*/part-*"))


def said_by(cache: Path) -> Path:
    """Where the last extraction into a cache has left what it said."""
    return cache.with_suffix(".log")


def title(process: psutil.Process) -> str:
    """Its command line; nothing if it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def ended_within(process: psutil.Process, seconds: float) -> bool:
    """Whether the process ends in so many seconds."""
    try:
        process.wait(seconds)
    except psutil.TimeoutExpired:
        return False
    return True


@dataclass
class Soak:
    """One extraction that is killed again and again."""

    manifest: Path
    recipe: Recipe
    options: ExtractionOptions
    random: random.Random

    def start(self, cache: Path) -> psutil.Process:
        """The extraction in a process of its own, which shares what is imported here."""
        pid = os.fork()
        if pid:
            return psutil.Process(pid)
        code = 1
        try:
            os.setpgid(0, 0)
            sys.stderr = said_by(cache).open("w")
            torch.set_num_threads(1)
            reports = extract(self.manifest, self.recipe, cache, batch_size=2, options=self.options)
            code = 3 if any(report.failed for report in reports) else 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def victims(self, process: psutil.Process, family: set[psutil.Process]) -> list[psutil.Process]:
        """Those of its processes that are killed now: with workers, often several at once."""
        if not self.options.workers:
            return [process]
        mark = "ray::ActorWorker" if self.options.ray else "multiprocessing.forkserver"
        marked = [below for below in family if mark in title(below)]
        servers = [below for below in process.children() if below in marked]
        workers = [below for below in marked if below not in servers]
        self.random.shuffle(workers)
        chosen = workers[: self.random.randint(1, MOST_AT_ONCE)]
        if not self.options.ray:
            chosen += [p for p in (*servers, process) if self.random.random() < OTHERS_SHARE]
        return chosen

    def await_moment(self, process: psutil.Process, cache: Path, span: float) -> bool:
        """Wait for the next kill; False when the command has ended before."""
        if self.options.workers and self.random.random() < 0.75:
            enough = committed(cache) + self.random.randint(1, MOST_COMMITS)
            while committed(cache) < enough:
                if ended_within(process, 0.1):
                    return False
            span = 0.2
        return not ended_within(process, self.random.uniform(0, span))

    def disturb(self, cache: Path, kills: int, span: float) -> tuple[int, bool]:
        """Start it and kill at random moments; how many kills, and whether it completed.

        A run that lists clips as failed, because too many workers died while encoding them, is not
        complete: the next one encodes them.
        """
        process = self.start(cache)
        done = 0
        family: set[psutil.Process] = set()
        while done < kills and self.await_moment(process, cache, span):
            try:
                family |= set(process.children(recursive=True))
                for victim in self.victims(process, family)[: kills - done]:
                    victim.send_signal(signal.SIGKILL)
                    done += 1
            except psutil.NoSuchProcess:
                continue
        code = process.wait()
        if code in (1, 3):
            print(f"ended with {code}: {said_by(cache).read_text()[-400:]}", flush=True)
        _, left = psutil.wait_procs(family, END_SECONDS)
        if left:
            raise SystemExit(f"{len(left)} processes outlive their command: {left}")
        return done, code == 0


def soak(options: argparse.Namespace, scratch: Path) -> dict[str, float]:
    """Kill until enough; the figures. `SystemExit` at the first difference."""
    spec = EncoderConfig(kind="whisper", model=options.model, layer=0, window="clip")
    soaked = Soak(
        manifest=make_corpus(scratch / "audio", options.clips),
        recipe=Recipe(
            name="soak",
            encoders={"speech": spec},
            adapter=AdapterConfig(output_size=32),
            losses=LossesConfig(response_lm=0.0),
        ),
        options=ExtractionOptions(
            options.workers, "local" if options.ray else "", commit_seconds=0
        ),
        random=random.Random(options.seed),
    )
    begun = time.monotonic()
    if soaked.start(scratch / "undisturbed").wait() != 0:
        raise SystemExit("the undisturbed run failed")
    span = options.span or time.monotonic() - begun
    expected = checksums(scratch / "undisturbed")
    kills = runs = completed = 0
    whole = False
    while kills < options.kills or not whole:
        left = options.kills - kills
        killed, whole = soaked.disturb(scratch / f"cache-{completed}", left, span)
        kills += killed
        runs += 1
        if whole:
            if checksums(scratch / f"cache-{completed}") != expected:
                raise SystemExit(f"cache {completed} differs after {kills} kills")
            completed += 1
        print(f"{kills} kills, {runs} runs, {completed} caches complete and equal", flush=True)
    return {
        "soak_kills": kills,
        "soak_runs": runs,
        "soak_caches": completed,
        "soak_clips": options.clips,
        "soak_seconds": round(time.monotonic() - begun),
    }


def main() -> None:
    """Read the options, kill, print and write the figures."""
    parser = make_parser(__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--ray", action="store_true", help="workers are actors of a local cluster")
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--model", default="openai/whisper-tiny.en", help="only its input layer")
    parser.add_argument("--span", type=float, default=0.0, help="longest wait for a kill, seconds")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.ray and not options.workers:
        parser.error("--ray needs --workers")
    with tempfile.TemporaryDirectory() as scratch:
        figures = soak(options, Path(scratch))
    write_figures(options, figures)


if __name__ == "__main__":
    main()
