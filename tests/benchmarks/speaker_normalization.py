"""Rate of the batch loader with and without speaker normalization, in turns, from a warm cache.

rellm extract manifests/ravdess --recipe heads
python tests/benchmarks/speaker_normalization.py manifests/ravdess
"""

import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from options import make_parser, rounded, write_figures

from rellm_cache.config.recipes import load_recipe
from rellm_cache.corpus.manifest import read_split
from rellm_cache.data.batch import Example
from rellm_cache.data.loader import BatchLoader
from rellm_cache.data.sampler import bucketed_batches
from rellm_cache.data.speaker_normalization import normalize_speakers
from rellm_cache.data.streams import open_streams

REPETITIONS = 9


def main() -> None:
    """Time whole epochs of both, print clips a second and their ratio."""
    parser = make_parser(__doc__, "heads")
    parser.add_argument("manifest", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe(options.recipe, options.overrides)
    utterances = read_split(options.manifest, "train")
    stored = open_streams(recipe.encoders, options.cache)
    encoders = {n: replace(e, speaker_normalization=True) for n, e in recipe.encoders.items()}
    examples = [Example(u.id) for u in utterances]
    begun = time.perf_counter()
    normalized = normalize_speakers(stored, encoders, utterances)
    for example in examples:  # a clip's first reading makes the statistics of its speaker
        for source in normalized.sources.values():
            source.frames(example.id)
    first = time.perf_counter() - begun
    loaders = {
        "as_stored": BatchLoader(examples, stored),
        "normalized": BatchLoader(examples, normalized),
    }
    lengths, training = loaders["as_stored"].lengths, recipe.training
    plan = bucketed_batches(lengths, training.batch_size, 1, 0, training.bucket_window)
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(REPETITIONS):
        for name, loader in loaders.items():
            begun = time.perf_counter()
            for _batch in loader.batches(plan, reuse_memory=True):
                pass
            rates[name].append(len(examples) / (time.perf_counter() - begun))
    median = {name: statistics.median(found) for name, found in rates.items()}
    ratio = median["normalized"] / median["as_stored"]
    write_figures(options, rounded({**median, "ratio": ratio, "first_pass_s": first}))


if __name__ == "__main__":
    main()
