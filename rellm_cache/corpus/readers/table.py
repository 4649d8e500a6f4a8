"""Table reader: a CSV or JSON Lines table beside audio files becomes a corpus."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rellm_cache.corpus.dimensions import DIMENSIONS, Vad, rescale
from rellm_cache.corpus.emotions import normalize_emotion
from rellm_cache.corpus.field_validation import as_text
from rellm_cache.corpus.manifest import SPLITS, Utterance, default_id, read_lines
from rellm_cache.corpus.readers.base import Corpus, Problems
from rellm_cache.corpus.splits import in_split
from rellm_cache.corpus.text_files import read_csv
from rellm_cache.errors import ManifestError


@dataclass(frozen=True)
class Columns:
    """Column names of the table. All but `audio` may be missing if they have these names."""

    audio: str = "audio"
    id: str = "id"
    text: str = "text"
    emotion: str = "emotion"
    speaker: str = "speaker"
    split: str = "split"
    arousal: str = "arousal"
    dominance: str = "dominance"
    valence: str = "valence"


def read_folder(
    table: Path,
    columns: Columns,
    vad_scale: tuple[float, float] = (0.0, 1.0),
    default_split: str = "train",
) -> Corpus:
    """Read a table; its audio paths are relative to its folder.

    A row with one or two of the three dimensions gets none and is reported.

    Args:
        vad_scale: lowest and highest value of the table's dimensions, as (1, 5).
        default_split: split of rows without one.

    Raises:
        ManifestError: there is no table, no audio column or no column of a given name, or a row has
            an unknown emotion or split, or a dimension outside the scale.
    """
    low, high = vad_scale
    if not low < high:
        raise ManifestError(f"--vad-scale {low:g} {high:g}: expected the lowest, then the highest")
    rows = list(read_lines(table)) if table.suffix == ".jsonl" else read_csv(table)
    _require_columns(rows, table, columns)
    problems = Problems()
    utterances = [
        _utterance(row, where, table, columns, vad_scale, problems) for where, row in rows
    ]
    return Corpus(
        name=table.resolve().parent.name,
        utterances=[u if u.split else in_split(u, default_split) for u in utterances],
        splits="as the table says",
        problems=problems,
        root=table,
    )


def _require_columns(
    rows: Sequence[tuple[str, dict[str, Any]]], table: Path, columns: Columns
) -> None:
    """Raise `ManifestError` if the table has no audio column or lacks a column that was named."""
    found = dict.fromkeys(name for _, row in rows for name in row)
    for field in fields(Columns):
        name = getattr(columns, field.name)
        if rows and name not in found and (field.name == "audio" or name != field.default):
            raise ManifestError(
                f"{table}: found columns {', '.join(found)}, expected one named {name!r}; name it "
                f"with --{field.name}-column"
            )


def _utterance(
    row: dict[str, Any],
    where: str,
    table: Path,
    columns: Columns,
    vad_scale: tuple[float, float],
    problems: Problems,
) -> Utterance:
    audio, split, label = (
        as_text(row.get(name)) for name in (columns.audio, columns.split, columns.emotion)
    )
    if not audio:
        raise ManifestError(
            f"{where}: column {columns.audio!r} is empty, expected the path of a sound file"
        )
    if split and split not in SPLITS:
        raise ManifestError(f"{where}: split {split!r}, expected one of {', '.join(SPLITS)}")
    values = {name: row.get(getattr(columns, name)) for name in DIMENSIONS}
    vad = _rescaled_vad(values, vad_scale, where, problems)
    folder = table.resolve().parent
    return Utterance(
        id=as_text(row.get(columns.id)) or default_id(audio, folder),
        audio=str(folder / audio),
        text=as_text(row.get(columns.text)),
        emotion=normalize_emotion(label, where) if label else None,
        vad=vad,
        vad_source="human" if vad else None,
        speaker=as_text(row.get(columns.speaker)),
        split=split,
    )


def _rescaled_vad(
    named: dict[str, Any], scale: tuple[float, float], where: str, problems: Problems
) -> Vad | None:
    absent = [name for name, value in named.items() if value in (None, "")]
    if absent:
        if len(absent) < len(named):
            problems.add("rows without all three dimensions", f"{where}: no {', '.join(absent)}")
        return None
    return rescale(list(named.values()), scale, where)
