"""Soak test of damages, hostile files and kills, over a store, runs and every command that writes.

    python tests/benchmarks/hostile.py
    python tests/benchmarks/hostile.py --seed 7 --damages 50 --files 50 --kills 20

Damages: one file of a store, or of a finished or interrupted run, gets a flipped bit, is cut, gets
a page of zeros, is deleted, or is swapped with another. Then `cache verify`, `check`, `evaluate`
and `train` read it. Each damage must be found, or change no output.

Files: random files of each format, from a grammar. A reader returns a value or raises an error for
the user, within five seconds of processor time.

Kills: each command is killed (SIGKILL) at random moments and called again. Then its output must
equal that of a call that was not killed.

Prints a table, after Ctrl-C that of the results so far. Exit code 1 if anything is lost or
silently different, or for a traceback.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "miniature"))
os.environ["HF_HUB_OFFLINE"] = "1"

import hostile_files as grammar
from hostile_world import World, contents, make_world
from options import make_parser, write_figures
from processes import Ended, command, fork, kill, run, wait

from rellm_cache.cli.commands import rellm as _rellm  # noqa: F401 (imported before the forks)
from rellm_cache.config.recipes import load_recipe
from rellm_cache.corpus.audio import load_clip
from rellm_cache.corpus.manifest import Utterance, read_manifest
from rellm_cache.corpus.readers.table import read_table
from rellm_cache.errors import RellmError
from rellm_cache.evaluation import judge  # noqa: F401 (shared by the children)
from rellm_cache.runs.provenance import load_training
from rellm_cache.runs.weights import load_info
from rellm_cache.store.maintenance.hdf5 import import_store
from rellm_cache.store.maintenance.verify import check_store
from rellm_cache.store.reader import FeatureStore
from rellm_cache.training.loop import read_metrics
from rellm_cache.utils.checksums import read_sums

LIMIT = 5.0  # seconds of processor time for one file
LONGEST_FILE = 60  # seconds
LONGEST = 300.0  # seconds for one command
DONE = (0, 3)  # exit codes; 3: done, with clips listed that are lost
WRONG = ("silent", "traceback", "slow", "lost")


@dataclass
class Results:
    """Outcomes by row of the table, and a description of each that is wrong."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def add(self, row: str, outcome: str, what: str = "") -> None:
        """Count an outcome; a wrong one is printed and kept."""
        self.counts.setdefault(row, Counter())[outcome] += 1
        if outcome in WRONG:
            self.wrong.append(f"{row}: {outcome}: {what}")
            print(self.wrong[-1], flush=True)


@dataclass
class Soak:
    """One session: a world, a random source and the results so far."""

    world: World
    scratch: Path
    random: random.Random
    results: Results

    def call(self, words: list[str], folder: Path) -> Ended:
        """A command in a child, as in a shell."""
        return run(command(words, folder), self.scratch / "log", LONGEST)

    # Damages

    def damages(self, count: int) -> None:
        """Damage a file `count` times, each in a fresh copy."""
        root = self.world.root
        kept = self.scratch / "whole"
        for name in ("cache", "heads"):
            shutil.copytree(root / name, kept / name)
        self.interrupt(kept)
        # A copy: reading finishes the interrupted run.
        expected = self.read_all(shutil.copytree(kept, self.scratch / "undamaged"))
        if expected.problem:
            raise SystemExit(f"the undamaged folders: {expected}")
        for _ in range(count):
            shutil.rmtree(self.scratch / "damaged", ignore_errors=True)
            folder = shutil.copytree(kept, self.scratch / "damaged")
            what, kind = self.damage(folder)
            try:
                found = self.read_all(folder)
            except TimeoutError as error:
                self.results.add(kind, "slow", f"{what}: {error}")
                continue
            if found.traceback:
                self.results.add(kind, "traceback", f"{what}: {found.traceback[-600:]}")
            elif found.problem:
                self.results.add(kind, "found")
            elif found.outputs == expected.outputs:
                self.results.add(kind, "harmless")
            else:
                names = found.outputs.keys() | expected.outputs.keys()
                other = [n for n in names if found.outputs.get(n) != expected.outputs.get(n)]
                self.results.add(kind, "silent", f"{what}: other {sorted(other)}")

    def interrupt(self, folder: Path) -> None:
        """Make a run that was killed after its second epoch."""
        words = [*self.world.commands["train"][:-1], str(folder / "begun")]
        log = self.scratch / "log"
        pid = fork(command(words, self.world.root), log)
        while not (folder / "begun" / "checkpoints" / "step-00000008").exists():
            if wait(pid, 0.002) is not None:
                raise SystemExit(f"the run ended before its kill: {log.read_text()}")
        kill(pid)
        if (folder / "begun" / "training.json").exists():
            raise SystemExit("the run ended before its kill: let it train for longer")

    def damage(self, folder: Path) -> tuple[str, str]:
        """Damage one file; its description and the row of the table."""
        top = self.random.choice(("cache", "cache", "heads", "begun"))
        files = sorted(f for f in (folder / top).rglob("*") if f.is_file() and f.stat().st_size)
        files = [f for f in files if "tensorboard" not in f.parts and f.name != ".lock"]
        file = self.random.choice(files)
        how = self.random.choice(("flip", "cut", "zeros", "delete", "swap"))
        data = bytearray(file.read_bytes())
        place = self.random.randrange(len(data))
        if how == "flip":
            data[place] ^= 1 << self.random.randrange(8)
        elif how == "cut":
            del data[place:]
        elif how == "zeros":
            data[place : place + 4096] = bytes(len(data[place : place + 4096]))
        if how == "delete":
            file.unlink()
        elif how == "swap":
            other = self.random.choice(files)
            data = bytearray(other.read_bytes())
            other.write_bytes(file.read_bytes())
            file.write_bytes(data)
            how = f"swap with {other.relative_to(folder)}"
        else:
            file.write_bytes(data)
        kind = {"cache": "store", "heads": "finished run", "begun": "interrupted run"}[top]
        return f"{file.relative_to(folder)}: {how} at {place}", f"damage of a {kind}"

    def read_all(self, folder: Path) -> "Reading":
        """What the commands say about a store and two runs, and their outputs."""
        found = Reading()
        test = str(self.world.root / "manifest" / "test.jsonl")
        training = [*self.world.commands["train"][:-1], str(folder / "begun")]
        training[training.index("cache")] = str(folder / "cache")
        heads = str(folder / "heads")
        for words in (
            ["cache", "verify", str(folder / "cache")],
            ["check", heads],
            ["evaluate", heads, test, "--cache", str(folder / "cache"), "--out",
             str(folder / "scores")],
            [*training[:-1], heads],
            training,
        ):  # fmt: skip
            ended = self.call(words, self.world.root)
            notes = (
                "damaged and skipped",
                "restored from",
                "best so far, are lost",
                "changed or damaged",
            )
            said = any(note in ended.output for note in notes)
            if ended.has_traceback or ended.code < 0:
                found.traceback = f"{words[:2]}: code {ended.code}: {ended.output}"
            if ended.code or said:
                found.problem += f"{words[:2]}: {ended.output[-300:]}"
        if not found.problem:
            for name in ("scores", "heads", "begun"):
                told = contents(folder / name)
                # Best weights that are left in a finished run are read by nothing.
                found.outputs |= {
                    f"{name}/{file}": digest
                    for file, digest in told.items()
                    if not (name == "heads" and file == "checkpoints/best.safetensors")
                }
        return found

    # Hostile files

    def files(self, count: int) -> None:
        """Read `count` random files of each format in one child for each format."""
        for name in self.readers():
            log = self.scratch / "log"
            seed = self.random.randrange(2**32)
            report = self.scratch / "outcomes"
            report.write_text("")
            ended = run(lambda n=name, s=seed, r=report: self.read_files(n, count, s, r), log,
                        LONGEST_FILE * count)  # fmt: skip
            lines = report.read_text("utf-8", "replace").splitlines()
            for line in lines:
                outcome, _, what = line.partition(" ")
                self.results.add(f"files: {name}", outcome, what)
            if len(lines) != count:
                self.results.add(f"files: {name}", "traceback",
                                 f"file {len(lines)} of seed {seed}: {ended}")  # fmt: skip

    def read_files(self, name: str, count: int, seed: int, report: Path) -> None:
        """Read the files of one format; a line for each outcome. Runs in a child."""
        source, folder = random.Random(seed), self.scratch / "files"
        folder.mkdir(exist_ok=True)
        read = self.readers()[name]
        for index in range(count):
            signal.alarm(LONGEST_FILE)
            begun, what = time.process_time(), ""
            try:
                read(source, folder)
                outcome = "value"
            except RellmError:
                outcome = "error"
            except Exception as error:
                outcome = "traceback"
                what = f"file {index} of seed {seed}: {type(error).__name__}: {error}"
            if time.process_time() - begun > LIMIT:
                outcome, what = "slow", f"file {index} of seed {seed}"
            with report.open("a") as lines:
                lines.write(f"{outcome} {' '.join(ascii(what)[:600].split())}\n")

    def readers(self) -> dict[str, Callable[[random.Random, Path], object]]:
        """Format → function that makes and reads one random file."""
        root = self.world.root
        valid = (root / "small.toml").read_text("utf-8")
        exported = (root / "x.h5").read_bytes()

        def written(folder: Path, name: str, content: bytes) -> Path:
            (folder / name).write_bytes(content)
            return folder / name

        def sound(source: random.Random, folder: Path) -> object:
            suffix, content = grammar.sound(source, folder)
            path = written(folder, f"hostile{suffix}", content)
            return load_clip(Utterance("a", str(path)))

        def result(source: random.Random, folder: Path) -> object:
            target = shutil.copytree(root / "heads", folder / "run", dirs_exist_ok=True)
            (target / "results.sha256").unlink()
            names = ("training.json", "adapter_config.json", "metrics.jsonl")
            name = source.choice((*names, "results.sha256"))
            before = root / "heads" / name
            if name in names[:2]:
                import json

                text = grammar.changed_json(json.loads(before.read_text()), source)
                content = grammar.damaged(text.encode("utf-8", "surrogatepass"), source)
            else:
                content = grammar.damaged(grammar.damaged(before.read_bytes(), source), source)
            path = written(target, name, content)
            if name == "results.sha256":
                return read_sums(path)
            return load_training(target), load_info(target), list(read_metrics(target))

        def store(source: random.Random, folder: Path) -> object:
            whole = sorted((root / "cache").iterdir())[0]
            shutil.rmtree(folder / "store", ignore_errors=True)
            copy = shutil.copytree(whole, folder / "store" / whole.name)
            file = source.choice(sorted(copy.rglob("zarr.json")))
            import json

            text = grammar.changed_json(json.loads(file.read_text()), source)
            file.write_bytes(grammar.damaged(text.encode("utf-8", "surrogatepass"), source))
            check_store(copy, lambda *_: None)
            opened = FeatureStore(copy)
            return [opened.verified_frames(key) for key in opened.ids]

        def hdf5(source: random.Random, folder: Path) -> object:
            path = written(folder, "hostile.h5", grammar.hdf5(source, exported))
            shutil.rmtree(folder / "imported", ignore_errors=True)
            return import_store(path, folder / "imported", lambda *_: None)

        return {
            "manifest": lambda s, f: read_manifest(written(f, "train.jsonl", grammar.manifest(s))),
            "CSV table": lambda s, f: read_table(written(f, "t.csv", grammar.table(s))),
            "recipe": lambda s, f: load_recipe(str(written(f, "r.toml", grammar.recipe(s, valid)))),
            "results of a run": result,
            "HDF5 export": hdf5,
            "metadata of a store": store,
            "sound": sound,
        }

    # Kills

    def kills(self, count: int, only: Sequence[str] = ()) -> None:
        """Kill commands in turn; call each again and compare with a call that was not killed."""
        names = [name for name in self.world.commands if not only or name in only]
        expected: dict[str, tuple[dict[str, str], float]] = {}
        for turn in range(count):
            name = names[turn % len(names)]
            if name not in expected:
                out = self.start(name, "whole")
                ended = self.call(self.words(name, out), self.world.root)
                if ended.code not in DONE:
                    raise SystemExit(f"{name} without a kill: {ended}")
                expected[name] = contents(out), ended.seconds
            whole, seconds = expected[name]
            out = self.start(name, "killed")
            for _ in range(self.random.choice((1, 1, 2))):
                pid = fork(command(self.words(name, out), self.world.root), self.scratch / "log")
                if wait(pid, self.random.uniform(0, seconds)) is None:
                    kill(pid)
            try:
                ended = self.call(self.words(name, out), self.world.root)
            except TimeoutError as error:
                self.results.add(f"kills: {name}", "slow", str(error))
                continue
            found = contents(out)
            # An export that was killed after its last step is there, and is not replaced.
            whole_before = found == whole and "exists already" in ended.output
            if ended.has_traceback or not (ended.code in DONE or whole_before):
                kind = "traceback" if ended.has_traceback else "lost"
                self.results.add(f"kills: {name}", kind, ended.output[-600:])
            elif found != whole:
                different = sorted(n for n in whole.keys() | found.keys()
                                   if whole.get(n) != found.get(n))  # fmt: skip
                self.results.add(f"kills: {name}", "lost", f"other output: {different}")
            else:
                self.results.add(f"kills: {name}", "the same")

    def words(self, name: str, out: Path) -> list[str]:
        """The words of a command with its output."""
        return [word.replace("{out}", str(out)) for word in self.world.commands[name]]

    def start(self, name: str, folder: str) -> Path:
        """A new output folder of a command, with what it starts from."""
        out = self.scratch / folder / "out"
        shutil.rmtree(out.parent, ignore_errors=True)
        out.parent.mkdir()
        if (self.world.root / "start" / name).is_dir():
            # Its audio lies beside it, as beside the manifest.
            shutil.copytree(self.world.root / "start" / name, out)
            (out.parent / "audio").symlink_to(self.world.root / "audio")
        elif name in ("generate", "cache export", "empathy score"):
            out.mkdir()
        return out


@dataclass
class Reading:
    """What commands found, and what they wrote: relative name → digest."""

    problem: str = ""
    traceback: str = ""
    outputs: dict[str, str] = field(default_factory=dict)


def show(results: Results) -> None:
    """Print the table."""
    columns = ("found", "harmless", "value", "error", "the same", *WRONG)
    print(f"{'':34}{''.join(f'{name:>11}' for name in columns)}")
    for row, counts in results.counts.items():
        print(f"{row:34}{''.join(f'{counts[name] or 0:>11}' for name in columns)}")


def main(options: argparse.Namespace) -> int:
    """Run all three stages; the exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        os.environ["RELLM_MODELS"] = str(scratch / "world" / "models")
        begun = time.monotonic()
        world = make_world(scratch / "world")
        soak = Soak(world, scratch, random.Random(options.seed), Results())
        ended = soak.call(
            [
                "cache",
                "export",
                f"cache/{sorted((world.root / 'cache').iterdir())[0].name}",
                "x.h5",
            ],
            world.root,
        )
        if ended.code:
            raise SystemExit(str(ended))
        seconds = {}
        for name, stage, count in (
            ("files", soak.files, options.files),
            ("kills", lambda count: soak.kills(count, options.command), options.kills),
            ("damages", soak.damages, options.damages),
        ):
            try:
                if count:
                    stage(count)
            except KeyboardInterrupt:
                print("interrupted: the results so far", flush=True)
                break
            seconds[name] = round(time.monotonic() - begun)
            print(f"{name}: done after {seconds[name]} s", flush=True)
        show(soak.results)
        figures = {row: dict(counts) for row, counts in soak.results.counts.items()}
        write_figures(
            options, figures, wrong=soak.results.wrong, seed=options.seed, seconds=seconds
        )
        return 1 if soak.results.wrong else 0


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--damages", type=int, default=200)
    parser.add_argument("--files", type=int, default=200, help="of each format")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument(
        "--command", action="append", default=[], help="kill only this one, e.g. qa"
    )
    sys.exit(main(parser.parse_args()))
