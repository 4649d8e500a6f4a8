"""Transcripts in a cache. In: a transcriber's spec. Out: its file, and what each clip says.

<cache>/transcripts/<slug>-<fingerprint:12>.jsonl           one file a spec, every corpus
<cache>/transcripts/.<slug>-<fingerprint:12>.jsonl.journal  rows that are not in it yet

The first line is the file's header, each other line a clip's `Transcript`. The file is replaced in
one step, so a reader sees whole ones; docs/cache-format.md describes it.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import TranscriberSpec
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.errors import ConfigError, StoreError
from rellm_cache.store.matching import find_match, nearest
from rellm_cache.store.remote.mirror_paths import display_path

FOLDER = "transcripts"
FORMAT = "rellm-transcripts"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Transcript:
    """What a clip says.

    Attributes:
        id: of the utterance.
        audio_sha256: hex digest of the audio that was heard, as in a feature store.
        text: may be empty: then the model heard no words.
        cut: it ends at the limit of tokens.
    """

    id: str
    audio_sha256: str
    text: str
    cut: bool


def transcripts_path(cache: Path, spec: TranscriberSpec) -> Path:
    """Where the transcripts of a spec with resolved weights lie, or are to be made."""
    for path in list_transcripts(cache):
        if path.stem.endswith(f"-{spec.fingerprint[:12]}"):
            return path
    return cache / FOLDER / f"{spec.slug}-{spec.fingerprint[:12]}.jsonl"


def list_transcripts(cache: Path) -> list[Path]:
    """The files of transcripts under a cache root, by name."""
    paths = sorted((cache / FOLDER).glob("*.jsonl"))
    return [path for path in paths if is_transcripts(f"{FOLDER}/{path.name}")]


def is_transcripts(name: str) -> bool:
    """Whether a path below a cache root is a file of transcripts, by its name."""
    return re.fullmatch(rf"{FOLDER}/[^./][^/]*-[0-9a-f]{{12}}\.jsonl", name) is not None


def find_transcripts(cache: Path, spec: TranscriberSpec) -> Path:
    """The file that holds what a recipe's transcriber asks for; no model is loaded for it.

    Raises:
        StoreError: none does; the message names the fields in which the nearest one differs. Or
            more than one does, with different weights, and the recipe pins none.
    """
    found = [(path, read_header(path)) for path in list_transcripts(cache)]
    what = f"files hold transcripts by {spec.model}"
    where, table = display_path(cache / FOLDER), "the recipe's [transcriber]"
    if (match := find_match(spec, found, where, what, table)) is not None:
        return match
    if not found:
        raise StoreError(
            f"{display_path(cache)}: found no transcripts; make them with `{spec.command} MANIFEST "
            f"--recipe RECIPE --cache {display_path(cache)}`"
        )
    path, other = nearest(spec, found)
    raise StoreError(
        f"{display_path(path)}: transcripts of another fingerprint; "
        f"{'; '.join(spec.differences(other))}; run `{spec.command}` with this recipe, or name "
        "this file's transcriber in the recipe"
    )


def read_header(path: Path) -> TranscriberSpec:
    """The spec whose transcripts a file holds.

    Raises:
        StoreError: it is no file of transcripts, is of a newer format, or was altered.
    """
    with path.open("rb") as file:
        return _parse_header(file.readline(), path)


def read_transcripts_file(path: Path) -> dict[str, Transcript]:
    """Every transcript of a file, by id.

    Raises:
        StoreError: as `read_header`, or a line is no transcript.
    """
    header, *lines = path.read_bytes().split(b"\n")
    _parse_header(header, path)
    rows = (_parse_row(line, f"{path}:{n}") for n, line in enumerate(lines, 2) if line)
    return {row.id: row for row in rows}


def transcriber_spec(recipe: Recipe) -> TranscriberSpec:
    """The transcriber of a recipe; `ConfigError` if it has none."""
    if recipe.transcriber is None:
        raise ConfigError(
            f"recipe {recipe.name!r} has no [transcriber] table, so no model writes down what is "
            "said; add one, or --set transcriber.model=openai/whisper-tiny.en"
        )
    return recipe.transcriber


def read_transcripts(
    utterances: Sequence[Utterance], spec: TranscriberSpec, cache: Path
) -> dict[str, str]:
    """Id → what the clip says, for every utterance. Texts may be empty: nothing was heard.

    Raises:
        StoreError: the cache has no such transcripts, not of all utterances, or they are damaged.
    """
    path = find_transcripts(cache, spec)
    known = read_transcripts_file(path)
    missing = [u.id for u in utterances if u.id not in known]
    if missing:
        raise StoreError(
            f"{display_path(path)}: {len(missing)} of {len(utterances)} utterances have no "
            f"transcript, the first is {missing[0]!r}; add them with `{spec.command} MANIFEST "
            f"--recipe RECIPE --cache {display_path(cache)}`"
        )
    return {u.id: known[u.id].text for u in utterances}


def file_rows(
    spec: TranscriberSpec, licence: str, transcripts: Iterable[Transcript]
) -> list[dict[str, Any]]:
    """The lines of a file: its header, then transcripts by id."""
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "fingerprint": spec.fingerprint,
        "transcriber": spec.to_json(),
        "licence": licence,
    }
    return [header, *(asdict(t) for t in sorted(transcripts, key=lambda t: t.id))]


def as_transcript(row: Mapping[str, Any], where: str) -> Transcript:
    """A row of a file or of its journal; `StoreError` if it is none."""
    kinds = {"id": str, "audio_sha256": str, "text": str, "cut": bool}
    if row.keys() != kinds.keys() or not all(isinstance(row[k], kinds[k]) for k in kinds):
        raise StoreError(
            f"{where}: found {dict(row)!r}, expected a transcript with {', '.join(kinds)}; remove "
            "the line, and `rellm transcribe` writes it again"
        )
    return Transcript(**row)


def _parse_row(line: bytes, where: str) -> Transcript:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise StoreError(
            f"{where}: not JSON ({error}); remove the line, and `rellm transcribe` writes it again"
        ) from error
    return as_transcript(row if isinstance(row, dict) else {}, where)


def _parse_header(line: bytes, path: Path) -> TranscriberSpec:
    try:
        own = json.loads(line)
        version = own["format"], own["format_version"]
        known = version == (FORMAT, FORMAT_VERSION)
        spec = TranscriberSpec.from_json(own["transcriber"]) if known else None
        recorded = own["fingerprint"]
    except ConfigError as error:
        raise StoreError(
            f"{display_path(path)}: its transcriber is unknown to this version: {error}"
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{display_path(path)}: its first line is not the header of transcripts ({error}); "
            "move the file away, and `rellm transcribe` makes it again"
        ) from error
    if spec is None:
        raise StoreError(
            f"{display_path(path)}: found format {version[0]} {version[1]}, expected {FORMAT} "
            f"{FORMAT_VERSION}; read it with the version of rellm that wrote it"
        )
    if spec.fingerprint != recorded:
        raise StoreError(
            f"{display_path(path)}: its header gives fingerprint {spec.fingerprint[:12]}, recorded "
            f"is {str(recorded)[:12]}; it was altered: move the file away and transcribe again"
        )
    return spec
