"""Functions of the Python API: each calls one function of the package, as a command does.

Paths are text or `Path`; a cache or a store may be a URL, as "s3://bucket/cache". `set` changes
fields of a recipe: a mapping of dotted keys to values, as {"training.epochs": 3}, which may be
nested, or texts as after `--set`. All errors that a user can mend are `RellmError`s.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rellm_cache.config.schema import Recipe
from rellm_cache.config.toml import Changes, override_texts
from rellm_cache.errors import ConfigError
from rellm_cache.store.remote.mirror_paths import is_url

if TYPE_CHECKING:
    from rellm_cache.benchmarks.report import BenchmarkReport
    from rellm_cache.corpus.array_files import ArrayFormat
    from rellm_cache.corpus.prepare import PrepareReport
    from rellm_cache.corpus.readers.base import Corpus
    from rellm_cache.data.epochs import Loader
    from rellm_cache.evaluation.scores import Scores
    from rellm_cache.extraction.run import StreamReport
    from rellm_cache.inference.trained_run import Run
    from rellm_cache.planning.plan import Plan
    from rellm_cache.probing.report import ProbeReport
    from rellm_cache.store.mapping import Store
    from rellm_cache.sweeps.plan import Variant
    from rellm_cache.sweeps.report import SweepReport
    from rellm_cache.training.callbacks import Callback, TrainReport

Location = str | Path  # a path; of a cache or store, also a URL


def open_store(path: Location) -> "Store":
    """Open one feature store as a mapping from utterance ids to (L, D) float32 frames.

    Frames of a store of K layers are (L, K, D); `store.layer(2)` is one layer of it.

    Args:
        path: folder or URL of the store, as "cache/prosody-1d0f958b8571".

    Raises:
        StoreError: there is no store, or it is damaged.

    Example:
        >>> import rellm_cache as rellm
        >>> from pathlib import Path
        >>> store = rellm.open_store(next(Path("cache").glob("whisper-tiny.en-*")))
        >>> place = store.ids.index("demo/mia-happy-1")
        >>> store["demo/mia-happy-1"].shape == (store.lengths[place], store.frame_size)
        True
    """
    from rellm_cache.store.mapping import Store
    from rellm_cache.store.remote.mirror import store_folder

    return Store(store_folder(path))


def load_recipe(recipe: Location | Recipe, set: Changes = ()) -> Recipe:
    """Load a shipped recipe by name or a TOML file by path, and change some of its fields.

    A recipe never changes; with `set` a new one is returned.

    Raises:
        ConfigError: there is no such recipe, a field is unknown, or a value is not allowed.

    Example:
        >>> import rellm_cache as rellm
        >>> rellm.load_recipe("small", set={"training.epochs": 1, "llm": None, "losses":
        ...     {"response_lm": 0.0, "emotion_lm": 0.0}, "adapter.output_size": 576}).needs_llm
        False
    """
    from rellm_cache.config.recipes import load_recipe

    return load_recipe(recipe, set)


def prepare(
    corpus: "str | Corpus",
    root: Location | None = None,
    out: Location | None = None,
    *,
    min_seconds: float = 1.0,
    max_seconds: float = 30.0,
    keep_silent: bool = False,
    allow_partial: bool = False,
    overwrite: bool = False,
    split_long: bool = False,
    **options: Any,
) -> "PrepareReport":
    """Make a manifest from a corpus: decode every clip once, and keep the usable ones.

    Args:
        corpus: name of a corpus, as "ravdess" or "folder", or what a reader of your own found.
        root: the corpus's folder, or the table of "folder"; not used for a `Corpus`.
        out: manifest folder to write.
        min_seconds: shorter clips are left out.
        max_seconds: longer clips are left out.
        keep_silent: keep clips without a signal, and clips whose channels cancel.
        allow_partial: accept an incomplete copy of a known corpus.
        overwrite: replace a manifest in `out` that was not made from this corpus.
        split_long: cut longer recordings at silences into clips, with `parent` and `segment`.
        options: of the corpus, as those of `rellm prepare`: `emotion_column="label"`.

    Returns:
        Clips by split in `kept`, those left out with reasons in `excluded`, and statistics.

    Raises:
        ManifestError: the corpus is incomplete, or no clip is usable.
        ConfigError: there is no such corpus or option.

    Example:
        >>> import rellm_cache as rellm
        >>> clips = [rellm.Utterance("mine/1", "speech.wav", emotion="sad", split="train")]
        >>> rellm.prepare(rellm.Corpus("mine", clips), out="manifests/mine").kept
        {'train': 1}
    """
    from rellm_cache.corpus.clip_limits import ClipLimits
    from rellm_cache.corpus.prepare import prepare
    from rellm_cache.corpus.readers.registry import read_corpus

    if out is None:
        raise ConfigError("found no out, expected the folder for the manifest")
    if isinstance(corpus, str):
        if root is None:
            raise ConfigError(f"corpus {corpus!r}: found no root, expected the corpus's folder")
        corpus = read_corpus(corpus, _local(root), options)
    limits = ClipLimits(min_seconds, max_seconds, keep_silent)
    return prepare(corpus, _local(out), limits, allow_partial, overwrite, split_long)


def prepare_folds(
    metadata: Location,
    out: Location,
    *,
    audio: Location,
    folds: "Sequence[int]" = (),
    labels: str = "",
    seed: int = 1,
    skip_missing: bool = False,
    min_seconds: float = 1.0,
    max_seconds: float = 30.0,
    keep_silent: bool = False,
    overwrite: bool = False,
) -> "dict[int, PrepareReport]":
    """Make a manifest of each fold of an EmoBox corpus: `<out>/fold_1` and so on.

    Args:
        metadata: folder of a corpus in EmoBox's metadata, as data/ravdess.
        out: folder of the manifest folders.
        audio: folder of the audio files, as EmoBox's downloads.
        folds: numbers of folds; all of them by default.
        labels: "keep" for the corpus's own labels, or a JSON file that maps them; the default is
            its label_map.json.
        seed: of the random fifth of train that is the validation set where EmoBox has none.
        skip_missing: leave out clips without an audio file.
        min_seconds: shorter clips are left out.
        max_seconds: longer clips are left out.
        keep_silent: keep clips without a signal, and clips whose channels cancel.
        overwrite: replace manifests in `out` that were not made from this corpus.

    Returns:
        Number of the fold → its report.

    Raises:
        ManifestError: a fold is missing or damaged, two folds test the same clip, a clip is in
            train and test, or audio is missing.

    Example:
        >>> import json
        >>> from pathlib import Path
        >>> import rellm_cache as rellm
        >>> fold = Path("emobox/mine/fold_1")
        >>> fold.mkdir(parents=True)
        >>> for split in ("train", "test"):
        ...     row = {"key": f"mine-{split}", "wav": "speech.wav", "emo": "Sad"}
        ...     _ = (fold / f"mine_{split}_fold_1.jsonl").write_text(json.dumps(row))
        >>> rellm.prepare_folds("emobox/mine", "manifests/mine-folds", audio=".")[1].kept
        {'train': 1, 'test': 1}
    """
    from rellm_cache.corpus.clip_limits import ClipLimits
    from rellm_cache.corpus.prepare import prepare_folds
    from rellm_cache.corpus.readers.emobox import EmoboxOptions, read_emobox_folds

    options = EmoboxOptions(str(_local(audio)), 1, labels, seed, skip_missing)
    corpora = read_emobox_folds(_local(metadata), options, folds)
    named = {f"fold_{fold}": corpus for fold, corpus in corpora.items()}
    limits = ClipLimits(min_seconds, max_seconds, keep_silent)
    reports = prepare_folds(named, _local(out), limits, overwrite)
    return dict(zip(corpora, reports.values(), strict=True))


def extract(
    recipe: Location | Recipe,
    manifest: Location,
    cache: Location = "cache",
    *,
    set: Changes = (),
    batch_size: int = 16,
    workers: int = 0,
    shard: str | None = None,
    ray: str = "",
    commit_seconds: float = 60.0,
) -> "list[StreamReport]":
    """Encode every clip of a manifest that the cache lacks, and store its frames.

    A killed call goes on where it stopped. Clips that fail are counted and listed, not raised.

    Args:
        manifest: manifest file or folder.
        batch_size: clips encoded together on a GPU.
        workers: worker processes; 0 for this process.
        shard: "2/8" for the second of eight parts of the clips.
        ray: address of a Ray cluster.
        commit_seconds: a kill loses at most this much work.

    Returns:
        A report for each stream: the store's path, and clips `encoded`, `present` and `failed`.

    Raises:
        ManifestError, ConfigError, StoreError, WorkersError: a manifest, recipe or model cannot be
            used, frames cannot be written, or workers cannot be kept alive.

    Example:
        >>> import rellm_cache as rellm
        >>> [report.failed for report in rellm.extract("heads", "manifests/demo", "cache")]
        [0, 0]
    """
    from rellm_cache.config.recipes import load_recipe
    from rellm_cache.extraction.options import ExtractionOptions
    from rellm_cache.workers.options import Shard

    loaded = load_recipe(recipe, set)  # before what takes seconds to import
    part = None if shard is None else Shard.parse(shard)
    options = ExtractionOptions(workers, ray, part, commit_seconds)

    from rellm_cache.extraction.run import extract

    return extract(_local(manifest), loaded, _cache(cache), batch_size, options=options)


def train(
    recipe: Location | Recipe,
    manifest: Location,
    cache: Location = "cache",
    *,
    out: Location,
    set: Changes = (),
    callbacks: "Sequence[Callback]" = (),
) -> "TrainReport":
    """Train adapter and heads on cached frames, or continue an interrupted run of the recipe.

    Args:
        manifest: folder with train.jsonl and, for validation, validation.jsonl.
        out: run folder to write, or to continue.
        callbacks: called at each step, at each epoch and at the end, for logging and to stop early.

    Returns:
        The run's folder `out`, `steps`, `seconds` and scores on `validation`.

    Raises:
        RunError: `out` is another run, or was trained on other data.
        StoreError, ManifestError, ConfigError: the cache lacks clips, or an input cannot be used.

    Example:
        >>> import rellm_cache as rellm
        >>> report: rellm.TrainReport = rellm.train("heads", "manifests/demo", out="runs/one",
        ...     set={"training.epochs": 1, "training.batch_size": 64})
        >>> report.steps, "ua" in report.validation
        (1, True)
    """
    from rellm_cache.config.recipes import load_recipe

    loaded = load_recipe(recipe, set)

    from rellm_cache.training.run import train

    return train(loaded, _local(manifest), _cache(cache), _local(out), callbacks=callbacks)


def evaluate(
    run: Location,
    manifest: Location,
    cache: Location | None = None,
    out: Location | None = None,
    *,
    samples: int = 6,
    in_words: bool = True,
    empathy: Location | None = None,
    overwrite: bool = False,
    orders: int = 1,
    calibrate: bool = False,
    export: Literal["voicebench", "urobench", "jsonl"] | None = None,
) -> "Scores":
    """Score a run on a manifest, and write scores, predictions and a report.

    Args:
        manifest: manifest file or folder.
        cache: root of the stores; None for the cache that the run was trained from.
        out: folder to write to; None for the run itself.
        samples: clips in the report, with their answers.
        in_words: whether the LLM also answers each emotion in words, which is slow.
        empathy: folder of an empathy scorer, to score the answers.
        overwrite: replace the scores of another manifest in that folder.
        orders: orders of the options over which the LLM's label probabilities are averaged: the
            paper's, then shuffled ones.
        calibrate: whether these probabilities are divided by those after an empty speech.
        export: form in which the answers to all clips are written to that folder.

    Raises:
        RunError, ManifestError, StoreError, ConfigError: the run is not finished, an input cannot
            be used, the cache lacks clips, or the folder has the scores of another manifest.

    Example:
        >>> import rellm_cache as rellm
        >>> scores = rellm.evaluate("runs/heads", "manifests/demo/test.jsonl")
        >>> 0 <= scores.head.recognition.ua <= 1
        True
    """
    from rellm_cache.evaluation.run import EvaluationOptions, evaluate

    scorer = None if empathy is None else _local(empathy)
    options = EvaluationOptions(samples, in_words, scorer, overwrite, orders, calibrate, export)
    own = None if cache is None else _cache(cache)
    return evaluate(
        _local(run), _local(manifest), own, options, None if out is None else _local(out)
    )


def sweep(
    recipe: Location | Recipe,
    manifest: Location,
    cache: Location = "cache",
    *,
    out: Location,
    set: Changes = (),
    variants: "Mapping[str, Changes] | Sequence[Variant]" = (),
    seeds: Sequence[int] = (1, 2, 3),
    test: Location | None = None,
    in_words: bool = False,
) -> "SweepReport":
    """Train variants of a recipe with several seeds, and compare them with the recipe as given.

    A killed sweep goes on where it stopped; a failed run is listed in `failed`, not raised.

    Args:
        manifest: folder with train.jsonl and, for validation, validation.jsonl.
        out: folder for the runs OUT/VARIANT/seed-N and the tables.
        set: changes of all runs; `{seed}` in a text becomes the seed.
        variants: name → changes, as {"no-dimensions": {"losses.vad": 0.0}}; or `Variant`s.
        test: manifest to score finished runs on.
        in_words: as in `evaluate`.

    Raises:
        ConfigError, ManifestError, StoreError, RunError: what would fail every run.

    Example:
        >>> import rellm_cache as rellm
        >>> report = rellm.sweep("heads", "manifests/demo", out="sweep", seeds=[1],
        ...     set={"training.epochs": 1}, variants={"mean": {"heads.pooling": "mean"}})
        >>> [run.variant for run in report.runs]
        ['baseline', 'mean']
    """
    from rellm_cache.sweeps.plan import SweepPlan, Variant
    from rellm_cache.sweeps.run import SweepSettings, sweep

    if isinstance(variants, Mapping):
        variants = [Variant(name, override_texts(changes)) for name, changes in variants.items()]
    base = recipe if isinstance(recipe, Recipe) else str(recipe)
    plan = SweepPlan(base, override_texts(set), tuple(variants), tuple(seeds))
    tested = None if test is None else _local(test)
    settings = SweepSettings(_local(manifest), _cache(cache), tested, in_words)
    return sweep(plan, settings, _local(out))


def benchmark(
    folds: Location,
    cache: Location = "cache",
    *,
    out: Location,
    recipe: Location | Recipe = "heads",
    set: Changes = (),
    seeds: Sequence[int] = (1, 2, 3),
    processes: int = 1,
) -> "BenchmarkReport":
    """Train and test a recipe on every fold of an EmoBox corpus, with several seeds.

    The recipe's emotions become those of the folds, unless `set` names them. A killed call goes on
    where it stopped. Call it with several processes below `if __name__ == "__main__":`.

    Args:
        folds: folder that `prepare_folds` wrote.
        out: folder of the runs `fold_K/baseline/seed-N`, and of benchmark.json and benchmark.csv.
        processes: runs at the same time.

    Returns:
        `score("head", "ua")`, the mean over folds with its spreads, and all `runs`.

    Raises:
        ManifestError, ConfigError, StoreError: the folds, the recipe or the cache cannot be used.
        RunError: a run folder holds a run of another recipe or of other data.

    Example:
        >>> import shutil
        >>> import rellm_cache as rellm
        >>> _ = shutil.copytree("manifests/demo", "folds/fold_1")
        >>> report = rellm.benchmark("folds", out="bench", seeds=[1], set={"training.epochs": 1})
        >>> 0 <= report.score("head", "ua").mean <= 1
        True
    """
    from rellm_cache.benchmarks.emobox import benchmark

    base = recipe if isinstance(recipe, Recipe) else str(recipe)
    return benchmark(
        _local(folds), _cache(cache), _local(out), base, override_texts(set), seeds, processes
    )


def plan(
    recipe: Location | Recipe,
    manifest: Location,
    cache: Location = "cache",
    *,
    set: Changes = (),
    clips: int = 4,
    batch_size: int = 16,
    gpu_bytes: int | None = None,
) -> "Plan":
    """Estimate time, memory and disk of `extract` and `train`; nothing is written.

    Args:
        manifest: manifest file or folder.
        clips: clips that are encoded now, for the estimate.
        batch_size: clips encoded together.
        gpu_bytes: memory of the GPU for training; None for the device of this machine.

    Returns:
        Estimates in bytes and seconds, as `needed_bytes` and `extraction.seconds`.

    Raises:
        ManifestError, ConfigError, StoreError: an input cannot be used.

    Example:
        >>> import rellm_cache as rellm
        >>> rellm.plan("heads", "manifests/demo", "cache").needed_bytes  # all is in the cache
        0
    """
    from rellm_cache.config.recipes import load_recipe

    loaded = load_recipe(recipe, set)

    from rellm_cache.planning.plan import plan

    return plan(_local(manifest), loaded, _cache(cache), clips, batch_size, gpu_bytes)


def probe(
    recipe: Location | Recipe,
    manifest: Location,
    cache: Location = "cache",
    *,
    targets: Sequence[str] = ("emotion", "arousal", "dominance", "valence", "speaker", "text"),
    out: Location | None = None,
    set: Changes = (),
) -> "ProbeReport":
    """Linear probes: which layer in the cache carries emotion, dimensions, speaker and text.

    For each stream of the recipe all layers of its encoder that the cache holds are probed, and
    all together. A probe is a linear model on the mean and standard deviation of each clip's
    frames, scored in five folds; those of emotion and dimensions separate speakers.

    Args:
        manifest: manifest file or folder; all its splits are used.
        targets: what to predict; one without labels is skipped.
        out: folder for `probe.json` and `probe.html`; None writes nothing.

    Returns:
        UA of classes or CCC of dimensions with a 95 % interval in `scores`, the best layer by
        `best("emotion")`, and reasons in `skipped`.

    Raises:
        ManifestError, ConfigError, StoreError: an input cannot be used.

    Example:
        >>> import rellm_cache as rellm
        >>> report = rellm.probe("heads", "manifests/demo", "cache", targets=["emotion", "arousal"])
        >>> [target.measure for target in report.targets]
        ['UA', 'CCC']
        >>> 0 <= report.best("emotion").value <= 1
        True
    """
    from rellm_cache.config.recipes import load_recipe
    from rellm_cache.probing.run import probe

    where = None if out is None else _local(out)
    return probe(_local(manifest), load_recipe(recipe, set), _cache(cache), targets, where)


def loader(
    recipe: Location | Recipe,
    manifest: Location,
    cache: Location = "cache",
    *,
    split: str = "train",
    seed: int | None = None,
    device: Any = "cpu",
    set: Changes = (),
    shuffle: bool = True,
) -> "Loader":
    """Batches of cached frames and labels, for a PyTorch loop of one's own.

    Each `for batch in loader` is one epoch. A batch has `streams` (name → (B, T, D) float16, zero
    beyond each length), `frame_lengths` (B,), `emotions` (B,), -100 where unknown, and `vad`
    (B, 3), NaN where unknown. It has no answers for an LLM; `train` makes those itself.

    Args:
        manifest: manifest folder.
        split: "train", "validation" or "test".
        seed: of the order; None for the recipe's.
        device: of the tensors, as "cuda"; batches are copied there in advance.
        set: changes of the recipe, as {"training.batch_size": 32}.
        shuffle: random batches of clips of similar length; else the order of the manifest.

    Raises:
        StoreError: the cache lacks a store or clips.
        ManifestError, ConfigError: the split cannot be read, or there is no such device.

    Example:
        >>> import rellm_cache as rellm
        >>> loader = rellm.loader("heads", "manifests/demo", split="validation", shuffle=False)
        >>> sum(len(batch.ids) for batch in loader) > 0
        True
    """
    from rellm_cache.config.recipes import load_recipe

    loaded = load_recipe(recipe, set)

    from rellm_cache.data.epochs import open_loader

    folder, stores = _local(manifest), _cache(cache)
    return open_loader(loaded, folder, stores, split, seed=seed, device=device, shuffle=shuffle)


def load_run(run: Location, *, cache: Location | None = None, set: Changes = ()) -> "Run":
    """Load a finished run, to answer, recognise and embed speech.

    Args:
        run: run folder of `train`, or a published one.
        cache: root of the stores for clips given by id; None for the run's own.
        set: changes of prompts, as {"prompts.answer_sentences": 2}.

    Raises:
        RunError: the folder is not a finished run.
        ConfigError: `set` changes something else than a prompt.

    Example:
        >>> import rellm_cache as rellm
        >>> found = rellm.load_run("runs/heads").recognise("speech.wav")
        >>> found.emotion in found.probabilities
        True
    """
    from rellm_cache.inference.trained_run import Run

    return Run(_local(run), None if cache is None else _cache(cache), set)


def embed(
    run: Location,
    manifest: Location,
    cache: Location | None = None,
    *,
    out: Location,
    format: "ArrayFormat" = "parquet",
    states: bool = False,
    batch_size: int = 16,
) -> int:
    """Write the embeddings of a manifest's utterances by a run, with ids and labels, to a file.

    `pooled` is (P,) float32, what the heads read. `Run.embed` gives the same for single clips.

    Args:
        manifest: manifest file or folder, with frames in the cache.
        cache: root of the stores; None for the cache that the run was trained from.
        out: new file, or for "npy" a new folder; docs/cache.md describes it.
        format: "parquet", which needs the extra `parquet`, "safetensors" or "npy".
        states: also write `states`, (T', H) float32, what the adapter gives the LLM.
        batch_size: clips embedded together.

    Returns:
        The number of utterances.

    Raises:
        RunError, ManifestError, StoreError, ConfigError: the run, the manifest, the cache or the
            format cannot be used.
        RellmError: `out` exists.

    Example:
        >>> import numpy as np
        >>> import rellm_cache as rellm
        >>> count = rellm.embed("runs/heads", "manifests/demo", out="embedded", format="npy")
        >>> len(np.load("embedded/pooled.npy")) == count
        True
    """
    from rellm_cache.inference.embed import embed

    own = None if cache is None else _cache(cache)
    return embed(_local(run), _local(manifest), _local(out), own, format, states, batch_size)


def _cache(location: Location) -> Path:
    """The folder of a cache root, for a URL of its mirror."""
    from rellm_cache.store.remote.mirror import cache_folder

    return cache_folder(location)


def _local(path: Location) -> Path:
    """A path on this machine; `ConfigError` for a URL."""
    if is_url(str(path)):
        raise ConfigError(f"{path}: only caches and stores may be URLs; copy it to a folder")
    return Path(path)
