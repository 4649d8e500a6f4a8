"""An epoch from the cache against the same epoch with both encoders in the loop, in one process.

python tests/benchmarks/epoch.py manifests/ravdess --cache cache --recipe heads
python tests/benchmarks/epoch.py manifests/ravdess --cache cache --recipe small --steps 3
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch

from rellm_cache.config import load_recipe
from rellm_cache.llm.frozen import load_llm
from rellm_cache.stages.timing import time_epochs


def main() -> None:
    """Time both and print the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--recipe", default="heads")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--steps", type=int, help="only the first steps of the epoch")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, options.overrides)
    llm = load_llm(recipe.llm, torch.device("cpu")) if recipe.needs_llm and recipe.llm else None
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        times = time_epochs(recipe, options.manifest, options.cache, out, llm, options.steps)
    figures = {
        "steps": times.steps,
        "cached_s": round(times.cached, 2),
        "live_s": round(times.live, 2),
        "live_over_cached": round(times.ratio, 1),
    }
    print(json.dumps(figures))
    if options.json:
        options.json.write_text(json.dumps({"figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
