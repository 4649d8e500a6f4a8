"""Epoch time from the cache, compared with the same epoch with both encoders run in each step.

python tests/benchmarks/epoch.py manifests/ravdess --cache cache --recipe heads
python tests/benchmarks/epoch.py manifests/ravdess --cache cache --recipe small --steps 3
"""

import tempfile
from pathlib import Path

import torch
from options import make_parser, write_figures

from rellm_cache.config.recipes import load_recipe
from rellm_cache.llm.loading import load_llm
from rellm_cache.planning.timing import time_epochs


def main() -> None:
    """Time both and print the ratio."""
    parser = make_parser(__doc__, "heads")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--steps", type=int, help="only the first steps of the epoch")
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
    write_figures(options, figures)


if __name__ == "__main__":
    main()
