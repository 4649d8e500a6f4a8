"""Emotion recognition on unseen speakers of RAVDESS, category head trained from the cache.

    rellm prepare ravdess RAVDESS --out manifests/all --train-speakers 1-20 \
        --validation-speakers "" --test-speakers ""
    rellm extract manifests/all --recipe heads --cache cache
    python tests/benchmarks/recognition.py RAVDESS --cache cache --recipe heads

Five folds of four speakers are held out in turn; the other sixteen are for training. `--choose`
also holds out two of these and scores on them instead; use it to choose settings.
`--shuffle-labels` is the control: training labels are shuffled among clips of the same text.
"""

import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from options import make_parser, write_figures

FOLDS = [frozenset(range(first, first + 4)) for first in (1, 5, 9, 13, 17)]


def speakers_of(fold: int, choose: bool) -> tuple[frozenset[int], frozenset[int]]:
    """Training speakers, and the speakers that are scored."""
    held = FOLDS[fold]
    others = frozenset(range(1, 21)) - held
    if not choose:
        return others, held
    following = max(held) % 20
    validation = frozenset({following + 1, following + 2})  # one man, one woman
    return others - validation, validation


def run(job: tuple[int, int], data: Path, cache: Path, recipe_name: str, overrides: list[str],
        choose: bool, shuffle: bool) -> tuple[float, float]:  # fmt: skip
    """Train one fold with one seed; its UA and the seconds that training took."""
    import torch

    from rellm_cache.config.recipes import load_recipe
    from rellm_cache.corpus.clip_limits import DEFAULT_LIMITS
    from rellm_cache.corpus.manifest import write_manifest
    from rellm_cache.corpus.readers.ravdess import read_ravdess
    from rellm_cache.corpus.speed_copies import speed_copies
    from rellm_cache.data.batch import Example
    from rellm_cache.data.examples import make_examples
    from rellm_cache.data.speaker_normalization import normalize_speakers
    from rellm_cache.data.streams import open_streams
    from rellm_cache.reproduction.folds import shuffle_labels
    from rellm_cache.runs.weights import load_run
    from rellm_cache.training.run import train
    from rellm_cache.training.validation import predict, score_heads

    torch.set_num_threads(1)
    fold, seed = job
    training, scored = speakers_of(fold, choose)
    recipe = replace(load_recipe(recipe_name, overrides), seed=seed)
    with tempfile.TemporaryDirectory() as scratch:
        manifest, out = Path(scratch) / "manifest", Path(scratch) / "run"
        utterances = read_ravdess(data, {"train": training}).utterances
        if shuffle:
            utterances = shuffle_labels(utterances, seed)
        write_manifest(manifest / "train.jsonl", utterances)
        report = train(recipe, manifest, cache, out)
        recipe, model = load_run(out, torch.device("cpu"))
    heard = read_ravdess(data, {"test": scored}).utterances
    examples = make_examples(heard, recipe, None)
    copies = speed_copies(heard, recipe.heads.speed_copies, DEFAULT_LIMITS)
    clips = [*heard, *(copy for _, copy in copies)]
    frames = normalize_speakers(open_streams(recipe.encoders, cache), recipe.encoders, clips)
    also_heard = [(place, Example(copy.id)) for place, copy in copies]
    predictions = predict(model, examples, frames, torch.device("cpu"), also_heard)
    recognition = score_heads(
        predictions.emotions, predictions.dimensions, examples, recipe.heads.emotions
    ).recognition
    if recognition is None:
        raise SystemExit("the scored speakers have no emotion labels")
    return recognition.ua, report.seconds


def main() -> None:
    """Run all folds and seeds, print a table, write the figures."""
    parser = make_parser(__doc__, "heads")
    parser.add_argument("data", type=Path, help="RAVDESS folder with Actor_01 …")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--choose", action="store_true", help="score on validation speakers")
    parser.add_argument("--shuffle-labels", action="store_true", help="train on shuffled labels")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    jobs = [(fold, seed) for seed in range(1, options.seeds + 1) for fold in range(options.folds)]
    work = partial(run, data=options.data, cache=options.cache, recipe_name=options.recipe,
                   overrides=options.overrides, choose=options.choose,
                   shuffle=options.shuffle_labels)  # fmt: skip
    begun = time.monotonic()
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        results = []
        for (fold, seed), result in zip(jobs, pool.map(work, jobs), strict=True):
            print(f"seed {seed} fold {fold}: UA {result[0]:.4f}, {result[1]:.0f} s", flush=True)
            results.append(result)
    figures = summary(jobs, results)
    write_figures(options, {**figures, "wall_s": round(time.monotonic() - begun)})


def summary(jobs: list[tuple[int, int]], results: list[tuple[float, float]]) -> dict[str, float]:
    """Mean UA, its spread over folds (of seed means) and over seeds (of fold means)."""
    folds = sorted({fold for fold, _ in jobs})
    seeds = sorted({seed for _, seed in jobs})
    ua = dict(zip(jobs, (u for u, _ in results), strict=True))
    by_fold = [statistics.mean(ua[f, s] for s in seeds) for f in folds]
    by_seed = [statistics.mean(ua[f, s] for f in folds) for s in seeds]
    return {
        "ua": round(statistics.mean(by_fold), 4),
        "sd_folds": round(statistics.pstdev(by_fold), 4),
        "sd_seeds": round(statistics.pstdev(by_seed), 4),
        **{f"ua_seed{s}": round(v, 4) for s, v in zip(seeds, by_seed, strict=True)},
        "fold_s": round(statistics.mean(seconds for _, seconds in results), 1),
        "fold_s_max": round(max(seconds for _, seconds in results), 1),
    }


if __name__ == "__main__":
    main()
