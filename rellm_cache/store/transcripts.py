"""Transcripts in a cache: one JSON Lines file for each transcriber.

<cache>/transcripts/<slug>-<fingerprint:12>.jsonl           one transcriber spec, every corpus
<cache>/transcripts/.<slug>-<fingerprint:12>.jsonl.journal  rows not yet in the file

The first line is the header, each other line a `Transcript`. The file is replaced in one step;
docs/cache-format.md specifies it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rellm_cache.config.specs import TranscriberSpec
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.errors import ConfigError, StoreError
from rellm_cache.store.matching import find_match, nearest
from rellm_cache.store.remote.mirror_paths import display_path
from rellm_cache.utils.json_files import decode, parse_object
from rellm_cache.utils.regular_files import open_regular, read_regular, why_unreadable

FOLDER = "transcripts"
FORMAT = "rellm-transcripts"
FORMAT_VERSION = 1
LONGEST_HEADER = 1_000_000  # bytes


@dataclass(frozen=True)
class Transcript:
    """The transcript of one clip."""

    id: str  # of the utterance
    audio_sha256: str  # hex digest of its audio, as in a feature store
    text: str  # empty if the model recognized no words
    cut: bool  # whether the text was cut at the token limit


def transcripts_path(cache: Path, spec: TranscriberSpec) -> Path:
    """Return the transcripts file of a spec with resolved weights, existing or not."""
    for path in list_transcripts(cache):
        if path.stem.endswith(f"-{spec.fingerprint[:12]}"):
            return path
    return cache / FOLDER / f"{spec.slug}-{spec.fingerprint[:12]}.jsonl"


def list_transcripts(cache: Path) -> list[Path]:
    """List the transcripts files under a cache root by name."""
    paths = sorted((cache / FOLDER).glob("*.jsonl"))
    return [path for path in paths if is_transcripts(f"{FOLDER}/{path.name}")]


def is_transcripts(name: str) -> bool:
    """Return whether a path relative to a cache root has the name of a transcripts file."""
    return re.fullmatch(rf"{FOLDER}/[^./][^/]*-[0-9a-f]{{12}}\.jsonl", name) is not None


def find_transcripts(cache: Path, spec: TranscriberSpec) -> Path:
    """Return the transcripts file that matches the transcriber of a recipe.

    Raises `StoreError` if none matches; the message names the fields in which the nearest file
    differs. Raises it too if several match with different weights and the recipe pins none.
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
    """Read the transcriber spec from a file's header.

    Raises `StoreError` if it is not a transcripts file, has a newer format, or was altered.
    """
    try:
        with open_regular(path) as file:
            return _parse_header(file.readline(LONGEST_HEADER), path)
    except OSError as error:
        raise _unreadable(path, error) from error


def read_transcripts_file(path: Path) -> dict[str, Transcript]:
    """Read all transcripts of a file, by id.

    Raises `StoreError` as `read_header` does, or if a line is not a transcript.
    """
    try:
        header, *lines = read_regular(path).split(b"\n")
    except OSError as error:
        raise _unreadable(path, error) from error
    _parse_header(header, path)
    rows = (_parse_row(line, f"{path}:{n}") for n, line in enumerate(lines, 2) if line)
    return {row.id: row for row in rows}


def read_transcripts(
    utterances: Sequence[Utterance], spec: TranscriberSpec, cache: Path
) -> dict[str, str]:
    """Return id → transcript of every utterance; a text may be empty.

    Raises `StoreError` if some or all transcripts are missing, or their file is damaged.
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


def file_lines(
    spec: TranscriberSpec, licence: str, transcripts: Iterable[Transcript]
) -> list[dict[str, Any]]:
    """Return the lines of a file: its header, then the transcripts by id."""
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "fingerprint": spec.fingerprint,
        "transcriber": spec.to_json(),
        "licence": licence,
    }
    return [header, *(asdict(t) for t in sorted(transcripts, key=lambda t: t.id))]


def parse_transcript(row: Mapping[str, Any], where: str) -> Transcript:
    """Parse a row of a file or of its journal; `StoreError` if it is not a transcript."""
    kinds = {"id": str, "audio_sha256": str, "text": str, "cut": bool}
    if row.keys() != kinds.keys() or not all(isinstance(row[k], kinds[k]) for k in kinds):
        raise StoreError(
            f"{where}: found {dict(row)!r}, expected a transcript with {', '.join(kinds)}; remove "
            "the line, and `rellm transcribe` writes it again"
        )
    return Transcript(**row)


def _parse_row(line: bytes, where: str) -> Transcript:
    fix = "remove the line, and `rellm transcribe` writes it again"
    return parse_transcript(parse_object(line, where, StoreError, fix), where)


def _unreadable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{display_path(path)}: {why_unreadable(error, path)}; move it away, and "
        "`rellm transcribe` makes it again"
    )


def _parse_header(line: bytes, path: Path) -> TranscriberSpec:
    try:
        own = decode(line)
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
