"""Reader of any folder: a CSV or JSON Lines table beside audio files in, utterances out.

Which column holds what is told by `Columns`; emotion names go through the one table, dimensions
are brought from their own scale to 0..1.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rellm_cache.corpus.dimensions import rescale
from rellm_cache.corpus.emotions import normalise_emotion
from rellm_cache.corpus.manifest import DIMENSIONS, SPLITS, Utterance, check_vad, read_lines
from rellm_cache.corpus.reading import Corpus
from rellm_cache.corpus.splits import in_split
from rellm_cache.corpus.text_files import read_csv
from rellm_cache.errors import ManifestError


@dataclass(frozen=True)
class Columns:
    """Names of the table's columns; all but `audio` may be absent from the table."""

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
    """Utterances of the table; audio paths are relative to the table's folder.

    Args:
        vad_scale: lowest and highest value of the table's dimensions, as (1, 5).
        default_split: of rows that name none.

    Raises:
        ManifestError: no table, no audio column, an unknown emotion or split, a dimension off its
            scale.
    """
    rows = list(read_lines(table)) if table.suffix == ".jsonl" else read_csv(table)
    if rows and columns.audio not in rows[0][1]:
        raise ManifestError(
            f"{table}: found columns {', '.join(rows[0][1])}, expected one named "
            f"{columns.audio!r}; name it with --audio-column"
        )
    utterances = [_utterance(row, where, table, columns, vad_scale) for where, row in rows]
    return Corpus(
        name=table.resolve().parent.name,
        utterances=[u if u.split else in_split(u, default_split) for u in utterances],
        splits="as the table says",
    )


def _utterance(
    row: dict[str, Any],
    where: str,
    table: Path,
    columns: Columns,
    vad_scale: tuple[float, float],
) -> Utterance:
    audio = row.get(columns.audio)
    if not audio:
        raise ManifestError(f"{where}: column {columns.audio!r} is empty, expected a file's path")
    split = row.get(columns.split) or ""
    if split and split not in SPLITS:
        raise ManifestError(f"{where}: split {split!r}, expected one of {', '.join(SPLITS)}")
    emotion = row.get(columns.emotion)
    try:
        emotion = normalise_emotion(str(emotion)) if emotion else None
    except ManifestError as error:
        raise ManifestError(f"{where}: {error}") from error
    vad = _rescaled_vad([row.get(getattr(columns, n)) for n in DIMENSIONS], vad_scale, where)
    folder = table.resolve().parent
    return Utterance(
        id=str(row.get(columns.id) or f"{folder.name}/{Path(audio).with_suffix('')}"),
        audio=str(folder / audio),
        text=str(row.get(columns.text) or ""),
        emotion=emotion,
        vad=vad,
        vad_source="human" if vad else None,
        speaker=str(row.get(columns.speaker) or ""),
        split=split,
    )


def _rescaled_vad(
    values: list[Any], scale: tuple[float, float], where: str
) -> tuple[float, float, float] | None:
    if any(value in (None, "") for value in values):
        return None
    low, high = scale
    if not low < high:
        raise ManifestError(f"--vad-scale {low:g} {high:g}: expected the lowest, then the highest")
    try:
        numbers = [float(value) for value in values]
    except ValueError as error:
        raise ManifestError(f"{where}: dimensions {values!r} are not numbers") from error
    if scale == (0.0, 1.0):
        return check_vad(numbers, where)
    return rescale(numbers, scale, where)
