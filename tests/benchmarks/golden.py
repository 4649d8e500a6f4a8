"""Golden values: results of the package on the demo clips, recorded once and compared later.

    python tests/benchmarks/golden.py --record golden.json
    python tests/benchmarks/golden.py --compare golden.json

It extracts the demo clips, trains 40 steps of the recipes `heads` and `small`, answers 20 clips and
scores both runs: on the CPU, with one thread, from a fixed seed. `--compare` repeats this and
prints the old and the new values. They can be equal only with the same processor and libraries;
both are recorded in the file and compared first.

golden.json was recorded on the demo's first 160 clips, which commit f72e535 has:

    git archive f72e535 rellm_cache/demo/clips | tar -x -C /tmp
    python tests/benchmarks/golden.py --compare golden.json --clips /tmp/rellm_cache/demo/clips

Only the command line is used, and files are read with zarr, safetensors and json, so that the
script still works after moves and renames inside the package. `--code FOLDER` runs the package of
another checkout.
"""

import argparse
import csv
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from safetensors import safe_open

STEPS = 40
TRAIN, VALIDATION, ANSWERED = 80, 12, 20  # demo clips that the speech LLM trains on and answers
LIBRARIES = ("torch", "transformers", "bitsandbytes", "numpy", "scipy", "zarr", "soxr", "soundfile")
EMOTIONS = 'heads.emotions=["neutral", "happy", "angry", "sad"]'
# As it was when values were first recorded: another wording gives other numbers.
RECOGNITION = (
    "Please identify the emotion tone of the speech provided below. Select from the following "
    "options: neutral, sad, angry, happy, or surprise.\n\nSpeech: {speech}"
)
# Fields that are set here keep their names from one version to the next.
COMMON = ("seed=1", EMOTIONS, f"prompts.recognition={json.dumps(RECOGNITION)}")
HEADS = (*COMMON, "training.epochs=8", "training.batch_size=24", "training.warmup_steps=5")
SMALL = (*COMMON, "training.epochs=2", "training.batch_size=4", "prompts.answer_tokens=32")

# Loss terms that have other names since the values were recorded.
RENAMED = {
    "losses.recognition": "losses.emotion_lm",
    "losses.category": "losses.emotion_ce",
    "losses.dimension": "losses.vad",
}

# One thread everywhere: sums are then added in one order.
THREADS = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA")
CONVERT = """
import importlib, pkgutil, sys
from pathlib import Path
import rellm_cache.demo as demo
names = [m.name for m in pkgutil.walk_packages(demo.__path__, "rellm_cache.demo.")]
for name in sorted(names, key=lambda n: not n.endswith(".models")):
    convert = getattr(importlib.import_module(name), "ensure_models", None)
    if convert is not None:
        convert(Path(sys.argv[1]))
        break
else:
    sys.exit("rellm_cache.demo: found no ensure_models, which converts the demo's models")
"""


class Commands:
    """Runs `rellm` of one checkout in subprocesses.

    Args:
        code: folder that holds `rellm_cache`.
        work: where the commands run and leave their files.
        models: folder of the demo's converted models.
        recorded: folder of the clips; None for those of the package.
    """

    def __init__(self, code: Path, work: Path, models: Path, recorded: Path | None) -> None:
        self.work, self.models, self.recorded = work, models, recorded
        self.environment = {
            **os.environ,
            **{f"{name}_NUM_THREADS": "1" for name in THREADS},
            "PYTHONPATH": str(code),
            "PYTHONHASHSEED": "0",
            "CUDA_VISIBLE_DEVICES": "",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "RELLM_MODELS": str(models),
        }
        found = self.python("-c", "import rellm_cache; print(rellm_cache.__file__)").strip()
        self.package = Path(found).resolve().parent
        if self.package.parent != code.resolve():
            raise SystemExit(f"{code}: expected the package there, found {self.package}")

    def python(self, *arguments: str) -> str:
        """What a Python process prints; the script ends where that process fails."""
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.work,
            env=self.environment,
            text=True,
            capture_output=True,
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(arguments[:6])} … failed\n{done.stdout}{done.stderr}")
        return done.stdout

    def rellm(self, *arguments: str, settings: Sequence[str] = ()) -> str:
        """What one rellm command prints, with its time on standard error."""
        start = time.monotonic()
        given = [word for setting in settings for word in ("--set", setting)]
        printed = self.python("-m", "rellm_cache.cli", *arguments, *given)
        print(
            f"{time.monotonic() - start:5.0f} s  rellm {' '.join(arguments)}",
            file=sys.stderr,
            flush=True,
        )
        return printed

    def convert_models(self) -> None:
        """Convert the demo's models where they are not there yet."""
        self.models.mkdir(parents=True, exist_ok=True)
        self.python("-c", CONVERT, str(self.models))

    def clips(self) -> list[dict[str, Any]]:
        """Rows of the manifest of the demo clips, with audio paths that hold anywhere here."""
        folder = self.recorded or self.package
        pattern = "manifest.jsonl" if self.recorded else "clips/manifest.jsonl"
        for found in sorted(folder.resolve().rglob(pattern)):
            rows = [json.loads(line) for line in found.read_text("utf-8").splitlines()]
            return [{**row, "audio": str(found.parent / row["audio"])} for row in rows]
        raise SystemExit(f"{folder}: found no {pattern}")


def digest(*parts: bytes) -> str:
    """SHA-256 (hex) of byte strings, each with its length."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()


def write_manifest(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A manifest folder with a file for each split."""
    folder.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        lines = [json.dumps(row) + "\n" for row in rows if row["split"] == split]
        (folder / f"{split}.jsonl").write_text("".join(lines), "utf-8")
    return folder


def spread(rows: Sequence[dict[str, Any]], split: str, count: int) -> list[dict[str, Any]]:
    """So many rows of a split, at even distances: all voices and emotions are among them."""
    found = [row for row in rows if row["split"] == split]
    return [found[i * len(found) // count] for i in range(count)]


def store_values(cache: Path) -> Iterator[tuple[str, Any]]:
    """Name, fingerprint and digest of all utterances of each store."""
    for attributes in sorted(cache.glob("*/zarr.json")):
        store = attributes.parent
        described = json.loads(attributes.read_text("utf-8"))["attributes"]["rellm"]
        utterances: dict[bytes, bytes] = {}
        for part in sorted(store.glob("part-*")):
            group = zarr.open_group(part, mode="r")
            arrays = {name: np.asarray(group[name][:]) for name in group.array_keys()}
            ends, id_ends = arrays["offsets"], arrays["id_offsets"]
            for i in range(len(ends) - 1):
                utterance = arrays["ids"][id_ends[i] : id_ends[i + 1]].tobytes()
                frames = arrays["frames"][ends[i] : ends[i + 1]]
                shape = f"{frames.dtype.str} {frames.shape}".encode()
                utterances[utterance] = bytes.fromhex(
                    digest(shape, frames.tobytes(), arrays["audio_sha256"][i].tobytes())
                )
        where = f"store {described['encoder']['kind']}"
        yield f"{where}: folder", store.name
        yield f"{where}: fingerprint", described["fingerprint"]
        yield f"{where}: utterances", len(utterances)
        yield f"{where}: frames", digest(*(u + utterances[u] for u in sorted(utterances)))


def run_values(run: Path) -> Iterator[tuple[str, Any]]:
    """Digests of what a run trained: with the tensors' names, without, and its losses."""
    where = f"run {run.name}"
    named: list[bytes] = []
    with safe_open(run / "adapter.safetensors", "np") as tensors:
        for name in sorted(tensors.keys()):
            values = tensors.get_tensor(name)
            shape = f"{values.dtype.str} {values.shape}".encode()
            named += [name.encode(), shape + values.tobytes()]
    yield f"{where}: tensors", len(named) // 2
    yield f"{where}: adapter, names and bytes", digest(*named)
    yield f"{where}: adapter, bytes alone", digest(*sorted(named[1::2]))
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    losses = [row.get("loss") for row in metrics if "validation" not in row]
    yield f"{where}: steps", max(row["step"] for row in metrics)
    yield f"{where}: loss of each step", digest(json.dumps(losses).encode())
    yield f"{where}: loss of the last step", losses[-1]
    learned = run / "data.sha256"
    yield f"{where}: digest of the data", learned.is_file() and learned.read_text("utf-8").strip()


def score_values(run: Path, printed: str) -> Iterator[tuple[str, Any]]:
    """Every figure of `evaluate --json`, and a digest of what was said of each clip."""
    where = f"run {run.name}"
    figures = dict(leaves(json.loads(printed)))
    # Where keys have new names, this one line still shows that the figures are the same.
    ordered = json.dumps(sorted(json.dumps(rounded(v)) for v in figures.values())).encode()
    yield f"{where}: figures, sorted, without names", digest(ordered)
    with (run / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    yield f"{where}: predictions", digest(json.dumps(rows).encode())
    for name, value in figures.items():
        yield f"{where}: {name}", value


def rounded(value: Any) -> Any:
    """A figure to twelve digits, in lists too: beyond them the order of a sum shows."""
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.12g}") if isinstance(value, float) else value


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of everything in a JSON document; lists of plain values stay whole."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{index}]")
    else:
        yield path, value


def measure(commands: Commands) -> dict[str, Any]:
    """All golden values, by name."""
    work, values = commands.work, dict[str, Any]()
    commands.convert_models()
    for weights in sorted(commands.models.glob("*/*/model.safetensors")):
        values[f"model {weights.parent.name}: weights"] = digest(weights.read_bytes())
    rows = commands.clips()
    everything = write_manifest(work / "manifest", rows)
    some = (("train", TRAIN), ("validation", VALIDATION), ("test", ANSWERED))
    few = write_manifest(work / "few", [row for pair in some for row in spread(rows, *pair)])
    cache = str(work / "cache")
    heads, small, answers = work / "heads", work / "small", work / "answers.jsonl"

    def train(recipe: str, manifest: Path, out: Path, settings: Sequence[str]) -> None:
        commands.rellm(
            *("train", "--recipe", recipe, "--manifest", str(manifest)),
            *("--cache", cache, "--out", str(out)),
            settings=settings,
        )

    def evaluate(run: Path, manifest: Path) -> str:
        test = str(manifest / "test.jsonl")
        return commands.rellm("evaluate", str(run), test, "--cache", cache, "--json")

    def respond() -> None:
        for split in ("train", "validation"):
            commands.rellm("respond", str(few / f"{split}.jsonl"), "--recipe", "small")

    def extract() -> None:
        commands.rellm("extract", str(everything), "--recipe", "small", "--cache", cache)

    def recognise() -> str:
        train("heads", everything, heads, HEADS)
        return evaluate(heads, everything)

    def answer() -> str:
        train("small", few, small, SMALL)
        test = str(few / "test.jsonl")
        commands.rellm("generate", str(small), test, "--out", str(answers), "--cache", cache)
        return evaluate(small, few)

    # Two commands at a time: each has one thread, so neither changes the other's numbers.
    with ThreadPoolExecutor(2) as pool:
        first = [pool.submit(respond), pool.submit(extract)]
        for done in first:
            done.result()
        second = [pool.submit(recognise), pool.submit(answer)]
        scores = [done.result() for done in second]

    values.update(store_values(work / "cache"))
    responses = "".join((few / f"{s}.responses.jsonl").read_text("utf-8") for s, _ in some[:2])
    expected = [json.loads(line) for line in responses.splitlines()]
    said = json.dumps([[row["id"], row["response"]] for row in expected]).encode()
    values["expected responses: number"] = len(expected)
    values["expected responses: texts"] = digest(said)
    for run in (heads, small):
        values.update(run_values(run))
        if values[f"run {run.name}: steps"] != STEPS:
            raise SystemExit(f"{run}: {values[f'run {run.name}: steps']} steps, expected {STEPS}")
    for line in answers.read_text("utf-8").splitlines():
        row = json.loads(line)
        values[f"answer {row['id']}"] = row["response"]
    for run, printed in zip((heads, small), scores, strict=True):
        values.update(score_values(run, printed))
    return values


def machine() -> dict[str, str]:
    """Processor and libraries: values that are computed hold for these alone."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line[:10] == "model name")
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    import torch

    return {
        "processor": model,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def compare(before: dict[str, Any], after: dict[str, Any]) -> int:
    """Print both columns; how many values differ. "12 digits" is a figure that agrees so far."""

    def shown(values: dict[str, Any], name: str) -> str:
        text = json.dumps(values[name], ensure_ascii=False) if name in values else "–"
        text = text.strip('"')
        return text if len(text) <= 40 else f"{text[:39]}…"

    differing = 0
    width = max(map(len, (*before, *after)))
    print(f"{'value':{width}}  {'before':40}  {'after':40}  equal?")
    for name in dict.fromkeys((*before, *after)):
        equal = "NO"
        if name in before and name in after:
            if before[name] == after[name]:
                equal = "yes"
            elif rounded(before[name]) == rounded(after[name]):
                equal = "12 digits"
        differing += equal == "NO"
        columns = f"{shown(before, name):40}  {shown(after, name):40}"
        print(f"{name:{width}}  {columns}  {equal}")
    return differing


def new_name(name: str) -> str:
    """The name of a recorded value today: `run heads: losses.vad`."""
    run, _, figure = name.rpartition(": ")
    return f"{run}: {RENAMED.get(figure, figure)}" if run else name


def main() -> int:
    """Record or compare; 1 where a value differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--record", type=Path, metavar="FILE", help="write the values here")
    task.add_argument("--compare", type=Path, metavar="FILE", help="compare with these values")
    here = Path(__file__).resolve().parents[2]
    parser.add_argument("--code", type=Path, default=here, help="checkout to run (this one)")
    parser.add_argument("--work", type=Path, help="keep all files in this new folder")
    parser.add_argument("--models", type=Path, help="folder of converted demo models")
    parser.add_argument("--clips", type=Path, help="folder of the clips (those of the package)")
    options = parser.parse_args()
    before = json.loads(options.compare.read_text("utf-8")) if options.compare else {}
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="golden-") as scratch:
        work = (options.work or Path(scratch) / "work").resolve()
        work.mkdir(parents=True)
        models = (options.models or work / "models").resolve()
        values = measure(Commands(options.code.resolve(), work, models, options.clips))
    print(f"{time.monotonic() - start:5.0f} s in all", file=sys.stderr)
    after = {"machine": machine(), "values": values}
    if options.record:
        partial = options.record.with_suffix(".partial")
        partial.write_text(json.dumps(after, ensure_ascii=False, indent=1) + "\n", "utf-8")
        shutil.move(partial, options.record)
        print(f"{options.record}: {len(values)} values")
        return 0
    if compare(before["machine"], after["machine"]):
        print("Another processor or other libraries: values that are computed may differ.")
    print()
    recorded = {new_name(name): value for name, value in before["values"].items()}
    differing = compare(recorded, after["values"])
    print(f"{len(after['values'])} values, {differing} differ")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
