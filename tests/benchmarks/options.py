"""Options and output of benchmarks: results are printed and written with the machine's details."""

import argparse
import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "bitsandbytes", "numpy", "zarr")


def make_parser(purpose: str | None, recipe: str = "") -> argparse.ArgumentParser:
    """A parser with `--json`; with the name of a recipe also `--recipe`, `--set` and `--cache`."""
    parser = argparse.ArgumentParser(
        description=purpose, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    if recipe:
        parser.add_argument("--recipe", default=recipe)
        parser.add_argument("--set", dest="overrides", action="append", default=[])
        parser.add_argument("--cache", type=Path, default=Path("cache"))
    return parser


def write_figures(options: argparse.Namespace, figures: Any, **more: Any) -> None:
    """Print figures in one line; with `--json` write them, `more`, the machine and libraries."""
    print(json.dumps(figures), flush=True)
    if options.json:
        content = {"figures": figures, **more, **measured_on()}
        options.json.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def measured_on() -> Mapping[str, Any]:
    """Processor, system and versions of libraries, to be read beside a figure."""
    processor = platform.processor() or platform.machine()
    return {
        "machine": f"{processor}, {os.cpu_count()} cores, {platform.platform()}",
        "versions": {"python": platform.python_version(), **{n: version(n) for n in LIBRARIES}},
    }


def rounded(figures: Mapping[str, float], digits: int = 3) -> dict[str, float]:
    """Figures to so many significant digits."""
    return {name: float(f"{value:.{digits}g}") for name, value in figures.items()}
