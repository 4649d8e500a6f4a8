"""Answers of a trained run to the utterances of a manifest or to a sound file, kept in a file."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rellm_cache.config.schema import Recipe
from rellm_cache.config.toml import Changes, parse_overrides
from rellm_cache.corpus.clip_limits import DEFAULT_LIMITS, read_limits
from rellm_cache.corpus.manifest import Utterance, manifest_files, read_lines, read_manifests
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
from rellm_cache.utils.locks import hold_file
from rellm_cache.utils.overwriting import overwriting, refuse_input
from rellm_cache.utils.resumable_table import FINGERPRINT, ResultTable, Row, fingerprint_of

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
) -> list[Generation]:
    """Answer all utterances of a manifest, or one sound file; write JSON Lines to `out`.

    Each row has a fingerprint (`answer_fingerprints`). So a killed call can continue, and a
    repeated call answers only what has changed. A sound file is always encoded live.

    Args:
        cache: root of the stores; None for the cache that the run was trained from.
        overrides: changes to the recipe's prompts, such as `prompts.answer_sentences=2`.
        resources: LLM and stores shared with other runs of this process.
        overwrite: replace `out` even if it is the manifest, or not a file of answers.

    Raises:
        RunError: `run` is not a finished run, or the cache that it was trained from is missing.
        ConfigError: the run has no LLM, or an override does not change a prompt.
        StoreError: the cache lacks clips.
        ManifestError: a text model's utterance has no transcript.
        RellmError: `out` is the manifest or a file of another kind, or another process writes it.
    """
    resources = resources or SharedModels()
    utterances = read_source(source)
    known = _known_answers(out, source, {u.id for u in utterances}, overwrite)
    recipe = run_recipe(run, require_prompt_overrides(overrides))
    live = from_audio or source.suffix.lower() in AUDIO_SUFFIXES
    if cache is None:
        cache = DEFAULT_CACHE if live and recipe.text is None else run_cache(run)
    load_streams = partial(_load_streams, run, recipe, source, cache, live, resources)
    made = answer_fingerprints(run, recipe, utterances, cache, None if live else load_streams)
    with hold_file(out):
        table = ResultTable(out, made, known)
        left = [u for u in utterances if u.id not in table]
        if left:
            model = load_responder(run, recipe, cache, load_streams, resources, overrides)
            found = model.answers(left, batch_size)
            answers = ((g.id, {k: v for k, v in asdict(g).items() if k != "id"}) for g in found)
            table.fill("Answering", len(left), "clips", answers)
        # Paths and transcripts of the manifest as it is now.
        rows = [{**table[u.id], "audio": u.audio, "text": u.text} for u in utterances]
        changed = table.finish(rows)
    if not changed:
        say(f"{out}: nothing to do, {counted(len(rows), 'answer is', 'answers are')} there")
    return [Generation(**{k: v for k, v in row.items() if k != FINGERPRINT}) for row in rows]


def _known_answers(out: Path, source: Path, ids: set[str], overwrite: bool) -> list[Row]:
    """Rows of a file of answers to `source`, if it exists; `RellmError` if it is something else."""
    if not overwrite:
        refuse_input(out, manifest_files(source))
    rows = [row for _, row in read_lines(out)] if out.exists() else []
    if not all(row.keys() >= ANSWER and fingerprint_of(row) for row in rows):
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
    streams = resources.streams(recipe.encoders, cache)
    try:
        streams.require(
            [u.id for u in utterances], f"rellm extract {source} --recipe {run}/recipe.toml"
        )
    except StoreError as error:
        raise StoreError(f"{error}, or encode live with --from-audio") from error
    return streams


def require_prompt_overrides(overrides: Changes) -> Changes:
    """The overrides; `ConfigError` unless all of them change prompts."""
    for override in parse_overrides(overrides):
        if override.keys[0] != "prompts" or len(override.keys) == 1:
            raise ConfigError(
                f"--set {override.text!r}: the run is trained; only prompts.* can change now"
            )
    return overrides
