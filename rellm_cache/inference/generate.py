"""Answers of a trained run to the utterances of a manifest or to a sound file, kept in a file."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from rellm_cache.config.schema import Recipe
from rellm_cache.config.toml import Changes, parse_overrides
from rellm_cache.corpus.clip_limits import DEFAULT_LIMITS, read_limits
from rellm_cache.corpus.manifest import Utterance, manifest_files, read_lines, read_manifests
from rellm_cache.data.sampler import ordered_batches
from rellm_cache.data.speaker_normalization import require_no_speakers
from rellm_cache.data.streams import StreamSet
from rellm_cache.errors import ConfigError, ManifestError, StoreError
from rellm_cache.inference.answer_fingerprints import answer_fingerprints
from rellm_cache.inference.live_encoding import LiveEncoders
from rellm_cache.inference.responders import Generation, load_responder
from rellm_cache.runs.provenance import DEFAULT_CACHE, run_cache
from rellm_cache.runs.shared_models import SharedModels
from rellm_cache.runs.weights import run_recipe
from rellm_cache.utils.console import counted, say
from rellm_cache.utils.devices import default_device
from rellm_cache.utils.overwriting import overwriting, refuse_input
from rellm_cache.utils.resumable_table import FINGERPRINT, ResultTable, Row, fingerprint_of
from rellm_cache.workers.options import WorkerOptions
from rellm_cache.workers.rows import MakeRows, Rows, RowTask, rows_by_workers
from rellm_cache.workers.shards import hold_output

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
ANSWER = {"id", "audio", "response"}  # in every row of a file of answers


def read_source(source: Path) -> list[Utterance]:
    """Utterances of a manifest file or folder, or one for a sound file; else `ManifestError`."""
    if source.suffix.lower() in AUDIO_SUFFIXES:
        return [Utterance(id=source.stem, audio=str(source.resolve()))]
    try:
        return read_manifests(source)
    except ManifestError as error:
        if source.is_dir() or source.suffix == ".jsonl":
            raise
        endings = ", ".join(AUDIO_SUFFIXES)
        raise ManifestError(f"{error}. Or is it a sound file? Those end in {endings}") from error


def generate(
    run: Path,
    source: Path,
    out: Path,
    cache: Path | None = None,
    from_audio: bool = False,
    batch_size: int = 8,
    overrides: Changes = (),
    resources: SharedModels | None = None,
    overwrite: bool = False,
    options: WorkerOptions | None = None,
) -> list[Generation]:
    """Answer all utterances of a manifest, or one sound file; write JSON Lines to `out`.

    Each row has a fingerprint (`answer_fingerprints`). So a killed call can continue, and a
    repeated call answers only what has changed. A sound file is always encoded live.

    Args:
        cache: root of the stores; None for the cache that the run was trained from.
        overrides: changes to the recipe's prompts, such as `prompts.answer_sentences=2`.
        resources: LLM and stores shared with other runs of this process.
        overwrite: replace `out` even if it is the manifest, or not a file of answers.
        options: workers and shard; None does all work in this process.

    Returns:
        The answers in the order of the manifest; none if other shards have clips left.

    Raises:
        RunError: `run` is not a finished run, or the cache that it was trained from is missing.
        ConfigError: the run has no LLM, an override does not change a prompt, or audio is to be
            encoded live for a recipe that normalizes by speaker.
        StoreError: the cache lacks clips.
        ManifestError: a text model's utterance has no transcript.
        RellmError: `out` is the manifest or a file of another kind, or another process writes it.
    """
    resources, options = resources or SharedModels(), options or WorkerOptions()
    utterances = read_source(source)
    known = _known_answers(out, source, {u.id for u in utterances}, overwrite)
    recipe = run_recipe(run, require_prompt_overrides(overrides))
    live = from_audio or source.suffix.lower() in AUDIO_SUFFIXES
    if live:
        require_no_speakers(recipe.encoders, f"{source}: live encoding")
    if cache is None:
        cache = DEFAULT_CACHE if live and recipe.text is None else run_cache(run)
    load_streams = partial(_load_streams, run, recipe, source, cache, live, resources)
    made = answer_fingerprints(run, recipe, utterances, cache, None if live else load_streams)
    with hold_output(out, options.shard) as output:
        table = ResultTable(out, made, known, output.part)
        left = [u for u in utterances if u.id not in table and options.takes(u.id)]
        task = AnswerTask(batch_size, run, source, cache, live, overrides)
        if left and options.has_workers:
            clips = left if live or recipe.text else _by_length(left, load_streams(left))
            found = rows_by_workers(task, {u.id: u for u in clips}, "clip", options)
            table.fill("Answering", len(left), "clips", found)
        elif left:
            table.fill("Answering", len(left), "clips", task.load_with(resources)(left))
        if unfinished := output.why_unfinished(table, "clip", lambda: table.missing(made)):
            say(f"{out}: {unfinished}")
            return []
        # Paths and transcripts of the manifest as it is now.
        rows = [{**table[u.id], "audio": u.audio, "text": u.text} for u in utterances]
        changed = table.finish(rows)
    if not changed:
        say(f"{out}: nothing to do, {counted(len(rows), 'answer is', 'answers are')} there")
    return [Generation(**{k: v for k, v in row.items() if k != FINGERPRINT}) for row in rows]


@dataclass(frozen=True)
class AnswerTask(RowTask):
    """The task of a worker that answers utterances; arguments as those of `generate`."""

    run_folder: Path
    source: Path
    cache: Path
    live: bool
    overrides: Changes

    def load(self, note: Callable[[str], None]) -> MakeRows:
        """Load the run and its LLM."""
        return self.load_with(SharedModels())

    def load_with(self, resources: SharedModels) -> MakeRows:
        """Load the run, with an LLM that other runs of this process may have."""
        recipe = run_recipe(self.run_folder, self.overrides)
        streams = partial(
            _load_streams, self.run_folder, recipe, self.source, self.cache, self.live, resources
        )
        model = load_responder(
            self.run_folder, recipe, self.cache, streams, resources, self.overrides
        )

        def answer(utterances: Sequence[Utterance]) -> Rows:
            for generation in model.answers(utterances, self.batch_size):
                yield generation.id, {k: v for k, v in asdict(generation).items() if k != "id"}

        return answer


def _by_length(utterances: Sequence[Utterance], streams: StreamSet) -> list[Utterance]:
    """Utterances in the order of their frames, in which one process batches them."""
    lengths = streams.lengths([u.id for u in utterances]).tolist()
    return [utterances[i] for batch in ordered_batches(lengths, 1) for i in batch]


def _known_answers(out: Path, source: Path, ids: set[str], overwrite: bool) -> list[Row]:
    """Rows of a file of answers to `source`, if it exists; `RellmError` if it is something else."""
    if not overwrite:
        refuse_input(out, manifest_files(source))
    rows: list[Row] = []
    try:
        for _, row in read_lines(out) if out.exists() else ():
            rows.append(row)
        are_answers = all(row.keys() >= ANSWER and fingerprint_of(row) for row in rows)
    except ManifestError:
        if rows:
            raise
        are_answers = False  # not even the first line is a row
    if not are_answers:
        if not overwrite:
            raise overwriting(out, "answers of `rellm generate`")
        return []
    if not overwrite and any(row["id"] not in ids for row in rows):
        raise overwriting(out, f"answers to {source} alone")
    return rows


def _load_streams(
    run: Path,
    recipe: Recipe,
    source: Path,
    cache: Path,
    live: bool,
    resources: SharedModels,
    utterances: Sequence[Utterance],
) -> StreamSet:
    """Frames encoded live from audio, or from the cache."""
    if live:
        is_sound = source.suffix.lower() in AUDIO_SUFFIXES
        limits = DEFAULT_LIMITS if is_sound else read_limits(source)
        return LiveEncoders(recipe.encoders, default_device()).streams(utterances, limits)
    try:
        return resources.run_streams(run, recipe, source, cache, [u.id for u in utterances])
    except StoreError as error:
        raise StoreError(f"{error}, or encode live with --from-audio") from error


def require_prompt_overrides(overrides: Changes) -> Changes:
    """The overrides; `ConfigError` unless all of them change prompts."""
    for override in parse_overrides(overrides):
        if override.keys[0] != "prompts" or len(override.keys) == 1:
            raise ConfigError(
                f"--set {override.text!r}: the run is trained; only prompts.* can change now"
            )
    return overrides
