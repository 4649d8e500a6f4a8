"""Speech LLM on unseen speakers of RAVDESS: response loss, and recognition by label likelihood.

    rellm prepare ravdess RAVDESS --out manifests/ravdess
    rellm respond manifests/ravdess --recipe small
    rellm extract manifests/ravdess --recipe small --cache cache
    python tests/benchmarks/alignment.py manifests/ravdess --cache cache

For each seed one run with recognition examples mixed in (the recipe as shipped) and one without.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rellm_cache.config import load_recipe
from rellm_cache.stages.evaluate import evaluate
from rellm_cache.stages.train import train


def run(options: argparse.Namespace, seed: int, recognition: bool, out: Path) -> dict[str, Any]:
    """Train and score once."""
    overrides = [*options.overrides, *([] if recognition else ["losses.recognition=0.0"])]
    recipe = replace(load_recipe(options.recipe, overrides), seed=seed)
    report = train(recipe, options.manifest, options.cache, out)
    scores = evaluate(out, options.manifest / "test.jsonl", options.cache, samples=0).to_json()
    return {
        "recognition_examples": recognition,
        "seed": seed,
        "response_loss_untrained": report.untrained["response_loss"],
        "response_loss": report.validation["response_loss"],
        "ua_head": scores["head"]["ua"],
        "ua_likelihood": scores["llm"]["ua"],
        "ua_generation": scores["llm"]["generation"]["ua"],
        "unparsable": scores["llm"]["unparsable"],
        "seconds": round(report.seconds),
    }


def main() -> None:
    """Run all seeds both ways, print each result and the means."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="keep the runs here")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    begun = time.monotonic()
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        for seed in range(1, options.seeds + 1):
            for recognition in (True, False):
                name = f"{'with' if recognition else 'without'}-{seed}"
                results.append(run(options, seed, recognition, out / name))
                print(json.dumps(results[-1]), flush=True)
    figures = {}
    for recognition in (True, False):
        part = [r for r in results if r["recognition_examples"] is recognition]
        for key in ("response_loss_untrained", "response_loss", "ua_head", "ua_likelihood"):
            values = [r[key] for r in part]
            name = f"{key}_{'with' if recognition else 'without'}"
            figures[name] = round(statistics.mean(values), 4)
            figures[f"{name}_sd"] = round(statistics.pstdev(values), 4)
    print(json.dumps({**figures, "wall_s": round(time.monotonic() - begun)}))
    if options.json:
        options.json.write_text(json.dumps({"figures": figures, "runs": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
