"""Start-up of a frozen LLM: seconds and memory with and without its quantized copy.

    python tests/benchmarks/startup.py MODEL … --json startup.json

MODEL is a model folder. Each load runs in a process of its own, in turns: quantizing, the first
start, which also saves the copy, and a later one, which reads it. Libraries are imported before the
clock starts. Peak is that of the resident set; anonymous memory at the end is what the system
cannot take back: pages of a mapped file are not in it.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from options import make_parser, rounded, write_figures

WAYS = ("quantized", "first", "copy")


def load(folder: str, copied: bool) -> dict[str, float]:
    """Load a model once in this process."""
    import torch

    from rellm_cache.config.schema import LLMConfig
    from rellm_cache.llm.loading import load_llm

    imported = resident("VmHWM")
    start, before = time.monotonic(), time.process_time()
    llm = load_llm(LLMConfig(folder, quantized_copy=copied), torch.device("cpu"))
    figures = {
        "seconds": time.monotonic() - start,
        "cpu_seconds": time.process_time() - before,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "imports_gb": imported,
        "anonymous_gb": resident("RssAnon"),
    }
    ids = llm.chat.ids("Hello")
    with torch.no_grad():
        figures["first_token_s"] = timed(lambda: llm.model(inputs_embeds=llm.embed(ids)[None]))
    return figures


def timed(call: object) -> float:
    """Seconds of a call."""
    start = time.monotonic()
    call()  # type: ignore[operator]
    return time.monotonic() - start


def resident(name: str) -> float:
    """GB of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith(f"{name}:")) * 1024 / 1e9


def measured(folder: Path, way: str, models: str) -> dict[str, float]:
    """Load a model in a new process."""
    environment = os.environ | {"RELLM_MODELS": models}
    command = [sys.executable, __file__, "--child", str(folder), way]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.decode())
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Measure every model in every way; print and write the medians."""
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(load(sys.argv[2], sys.argv[3] != "quantized")))
        return
    parser = make_parser(__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    figures = {}
    for folder in options.models:
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(options.turns):
            with tempfile.TemporaryDirectory() as models:
                for way in WAYS:
                    found[way].append(measured(folder.resolve(), way, models))
        for way, rows in found.items():
            middle = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
            figures[f"{folder.name}, {way}"] = rounded(middle, 3)
            print(f"{folder.name}, {way}: {figures[f'{folder.name}, {way}']}", flush=True)
    write_figures(options, figures)


if __name__ == "__main__":
    main()
