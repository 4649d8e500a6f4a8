"""Speech LLM on unseen speakers of RAVDESS: response loss, and recognition by label likelihood.

    rellm prepare ravdess RAVDESS --out manifests/ravdess
    rellm respond manifests/ravdess --recipe small
    rellm extract manifests/ravdess --recipe small --cache cache
    python tests/benchmarks/alignment.py manifests/ravdess --cache cache

For each seed the heads are trained first (recipe `heads`, no LLM). The speech LLM starts from them
and is trained with recognition examples (the shipped recipe); for the first `--without` seeds, also
without them. The loss of the untrained adapter is measured at the recipe's random initial weights.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from options import make_parser, write_figures

from rellm_cache.config.recipes import load_recipe
from rellm_cache.corpus.manifest import read_split
from rellm_cache.data.examples import make_examples
from rellm_cache.data.streams import open_streams
from rellm_cache.evaluation.run import EvaluationOptions, evaluate
from rellm_cache.llm.loading import load_llm
from rellm_cache.training.loop import Trainer, TrainingData, make_accelerator
from rellm_cache.training.run import train


def run(job: tuple[int, bool], options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train and score once: a seed, with or without recognition examples."""
    seed, recognition = job
    torch.set_num_threads(1)
    out = folder / f"{'with' if recognition else 'without'}-{seed}"
    heads = replace(load_recipe("heads"), seed=seed)
    start = out.with_name(f"{out.name}-heads")
    train(heads, options.manifest, options.cache, start)
    overrides = [f'training.init_from="{start.resolve()}"', *options.overrides]
    if not recognition:
        overrides.append("losses.emotion_lm=0.0")
    recipe = replace(load_recipe(options.recipe, overrides), seed=seed)
    report = train(recipe, options.manifest, options.cache, out)
    scores = evaluate(
        out, options.manifest / "test.jsonl", options.cache, EvaluationOptions(0)
    ).to_json()
    return {
        "recognition_examples": recognition,
        "seed": seed,
        "response_loss_heads_only": report.untrained["response_lm_loss"],
        "response_lm_loss": report.validation["response_lm_loss"],
        "ua_head": scores["head"]["ua"],
        "ua_likelihood": scores["llm"]["ua"],
        "ua_generation": scores["llm"]["generation"]["ua"],
        "unparsable": scores["llm"]["unparsable"],
        "seconds": round(report.seconds),
    }


def untrained_losses(options: argparse.Namespace, out: Path) -> dict[str, float]:
    """Validation losses of the recipe's adapter as it starts, before any step."""
    recipe = load_recipe(options.recipe, options.overrides)
    if recipe.llm is None:
        raise SystemExit(f"recipe {options.recipe} has no LLM")
    accelerator = make_accelerator(out)
    llm = load_llm(recipe.llm, accelerator.device)
    splits = [read_split(options.manifest, name) for name in ("train", "validation")]
    training, validation = (make_examples(split, recipe, llm) for split in splits)
    data = TrainingData(training, validation, open_streams(recipe.encoders, options.cache))
    return Trainer(recipe, data, out, llm, accelerator).validate()


def main() -> None:
    """Run all seeds both ways, print each result and the means."""
    parser = make_parser(__doc__, "small")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--without", type=int, default=1, help="seeds also run without recognition")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keep the runs here")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    jobs = [(seed, True) for seed in range(1, options.seeds + 1)]
    jobs += [(seed, False) for seed in range(1, options.without + 1)]
    begun = time.monotonic()
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        untrained = untrained_losses(options, out / "untrained")
        print(json.dumps({"untrained": untrained}), flush=True)
        with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
            for result in pool.map(partial(run, options=options, folder=out), jobs):
                results.append(result)
                print(json.dumps(result), flush=True)
    figures = {"response_loss_untrained": untrained["response_lm_loss"]}
    for recognition in (True, False):
        part = [r for r in results if r["recognition_examples"] is recognition]
        for key in ("response_lm_loss", "ua_head", "ua_likelihood", "ua_generation"):
            values = [r[key] for r in part] or [float("nan")]
            name = f"{key}_{'with' if recognition else 'without'}"
            figures[name] = round(statistics.mean(values), 4)
            figures[f"{name}_sd"] = round(statistics.pstdev(values), 4)
    figures["wall_s"] = round(time.monotonic() - begun)
    write_figures(options, figures, runs=results)


if __name__ == "__main__":
    main()
