"""Kills `extract` at random moments, many times, and compares what it has made at the end.

    python tests/benchmarks/soak.py --kills 100
    python tests/benchmarks/soak.py --kills 100 --workers 4
    python tests/benchmarks/soak.py --kills 100 --workers 4 --ray

Without --workers each run of the command is killed (SIGKILL) and started again. With it, a worker
or the command itself is killed; with --ray an actor. When a run completes, its cache must hold
every clip exactly once, each checksum equal to an undisturbed run's, and a new cache is begun.
Every clip is a part of its own, so that a kill may fall anywhere within a commit.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import soundfile
import torch

from rellm_cache.config import AdapterConfig, EncodersConfig, EncoderSpec, LossesConfig, Recipe
from rellm_cache.corpus.manifest import write_lines
from rellm_cache.encoders import whisper  # noqa: F401 (imported before the fork: children share it)
from rellm_cache.stages.extract import extract
from rellm_cache.stages.extraction.spread import Spread
from rellm_cache.store.layout import list_stores
from rellm_cache.store.reader import FeatureStore


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


@dataclass
class Soak:
    """One extraction that is killed again and again."""

    manifest: Path
    recipe: Recipe
    spread: Spread
    random: random.Random

    def start(self, cache: Path) -> psutil.Process:
        """The extraction in a process of its own, which shares what is imported here."""
        pid = os.fork()
        if pid:
            return psutil.Process(pid)
        code = 1
        try:
            os.setpgid(0, 0)
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)
            torch.set_num_threads(1)
            extract(self.manifest, self.recipe, cache, batch_size=2, spread=self.spread)
            code = 0
        finally:
            os._exit(code)

    def victims(self, process: psutil.Process) -> list[psutil.Process]:
        """Those of its processes that may be killed."""
        if not self.spread.workers:
            return [process]
        below = process.children(recursive=True)
        if self.spread.ray:
            return [p for p in below if p.name().startswith("ray::ActorWorker")]
        return [process, *(p for p in below if "spawn_main" in " ".join(p.cmdline()))]

    def disturb(self, cache: Path, kills: int, span: float) -> tuple[int, bool]:
        """Start it and kill at random moments; how many kills, and whether it completed."""
        process = self.start(cache)
        done = 0
        family: set[psutil.Process] = set()
        while done < kills:
            try:
                process.wait(self.random.uniform(0, span))
                break
            except psutil.TimeoutExpired:
                pass
            try:
                family |= set(process.children(recursive=True))
                victims = self.victims(process)
                if victims:
                    self.random.choice(victims).send_signal(signal.SIGKILL)
                    done += 1
            except psutil.NoSuchProcess:
                continue
        code = process.wait()
        psutil.wait_procs(family, 120)  # workers whose command was killed commit, and end
        return done, code == 0


def soak(options: argparse.Namespace, scratch: Path) -> dict[str, float]:
    """Kill until enough; the figures. `SystemExit` at the first difference."""
    spec = EncoderSpec(kind="whisper", model=options.model, layer=0, window="clip")
    soaked = Soak(
        manifest=make_corpus(scratch / "audio", options.clips),
        recipe=Recipe(
            name="soak",
            encoders=EncodersConfig(spec),
            adapter=AdapterConfig(output_size=32),
            losses=LossesConfig(response=0.0),
        ),
        spread=Spread(options.workers, "local" if options.ray else "", commit_seconds=0),
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--ray", action="store_true", help="workers are actors of a local cluster")
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--model", default="openai/whisper-tiny.en", help="only its input layer")
    parser.add_argument("--span", type=float, default=0.0, help="longest wait for a kill, seconds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.ray and not options.workers:
        parser.error("--ray needs --workers")
    with tempfile.TemporaryDirectory() as scratch:
        figures = soak(options, Path(scratch))
    print(json.dumps(figures))
    if options.json:
        options.json.write_text(json.dumps({"figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
