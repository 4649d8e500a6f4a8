"""Table reader: a CSV or JSON Lines table beside audio files becomes a corpus."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from rellm_cache.corpus.archives import open_archive
from rellm_cache.corpus.audio_location import (
    NamedMember,
    audio_below,
    default_id,
    parse_location,
)
from rellm_cache.corpus.dimensions import DIMENSIONS, Vad, rescale
from rellm_cache.corpus.field_validation import NAME, Field, as_text, check_fields, plain_name
from rellm_cache.corpus.labels import KNOWN_NAMES, label_rule
from rellm_cache.corpus.manifest import SPLITS, Utterance, VadSource, read_lines
from rellm_cache.corpus.readers.base import Corpus
from rellm_cache.corpus.readers.registry import register_corpus
from rellm_cache.corpus.soft_labels import majority, read_shares
from rellm_cache.corpus.splits import in_split
from rellm_cache.corpus.text_files import Problems, read_csv
from rellm_cache.errors import AudioError, ConfigError, ManifestError
from rellm_cache.utils.console import counted
from rellm_cache.utils.json_files import decode

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
# Words that programs write where there is no value.
NO_VALUE = {"nan", "NaN", "NAN", "null", "NULL", "None", "<NA>", "N/A", "n/a", "#N/A"}


SOURCE: Field = (lambda value: isinstance(value, str), ", ".join(get_args(VadSource)))
Row = tuple[str, dict[str, Any]]  # `file:line`, and cells by column
COLUMN = "_column"  # end of the names of options that name a column


@dataclass(frozen=True)
class TableOptions:
    """Options of the corpus `folder`.

    Names of columns are in any case. All but the audio may be missing under these names. A
    column of dimensions holds one number, or `vad` all three, in the order of `DIMENSIONS`.
    Dimensions without a `vad_source` are human.

    Attributes:
        vad_scale: lowest and highest value of the table's dimensions, as (1, 5).
        split: split of rows without one.
    """

    audio_column: str = "audio"
    id_column: str = "id"
    text_column: str = "text"
    response_column: str = "response"
    emotion_column: str = "emotion"
    speaker_column: str = "speaker"
    split_column: str = "split"
    arousal_column: str = "arousal"
    dominance_column: str = "dominance"
    valence_column: str = "valence"
    vad_column: str = "vad"
    vad_source_column: str = "vad_source"
    vad_scale: tuple[float, ...] = (0.0, 1.0)
    split: Literal["train", "validation", "test"] = "train"
    labels: str = ""


@register_corpus("folder", options=TableOptions)
def read_table(table: Path, options: TableOptions = TableOptions()) -> Corpus:
    """Read audio files with a table; its audio paths are relative to its folder.

    A member of a tar or zip archive is `archive.zip#name`; it is read there.

    A row with one or two of the three dimensions gets none and is reported.

    Raises:
        ConfigError: the scale has another number of values than two.
        ManifestError: there is no table, no audio column or no column of a given name, or a row has
            an unknown emotion, split or source of dimensions, or a dimension outside the scale.
    """
    is_json = table.suffix.lower() in JSON_SUFFIXES
    rows: list[Row] = [*(read_lines(table) if is_json else read_csv(table, skip_spaces=True))]
    folder = table.resolve().parent
    return corpus_of_rows(rows, table, folder.name, folder, options)


def corpus_of_rows(
    rows: Sequence[Row],
    source: Path,
    name: str,
    folder: Path,
    options: TableOptions,
    unread: Sequence[str] = (),
) -> Corpus:
    """A corpus from the rows of a table, wherever they come from.

    Args:
        rows: `file:line` for messages, and the cells by column.
        source: the table, for messages.
        name: of the corpus.
        folder: what paths of audio are relative to.
        unread: columns of the table that are not in `rows`.

    Raises: as `read_table`.
    """
    if len(options.vad_scale) != 2:
        raise ConfigError(f"vad_scale = {options.vad_scale}: expected lowest and highest value")
    low, high = options.vad_scale
    labels = label_rule(options.labels)
    if not low < high:
        raise ManifestError(f"--vad-scale {low:g} {high:g}: expected the lowest, then the highest")
    if not rows:
        raise ManifestError(f"{source}: found no rows, expected one for each sound file")
    found = list(dict.fromkeys(name for _, row in rows for name in row))
    names = match_columns(found, source, options)
    problems = Problems()
    utterances = []
    for where, row in rows:
        own = {field: row.get(name) for field, name in names.items()}
        own |= _three_columns(own.pop("vad", None), own, f"{where}: {names.get('vad')}")
        shares = own.pop("emotion") if isinstance(own.get("emotion"), dict) else None
        values = _cell_values(own, names, where, problems)
        utterance = _utterance(values, where, folder, (low, high), problems)
        if label := values.get("emotion"):
            utterance = replace(utterance, emotion=labels.emotion(label, where))
        if shares is not None:
            soft = read_shares(shares, where, labels.emotion)
            utterance = replace(utterance, emotion=majority(soft), soft_emotion=soft)
        utterances.append(utterance)
    return Corpus(
        name=name,
        utterances=[u if u.split else in_split(u, options.split) for u in utterances],
        splits="as the table says",
        problems=problems,
        notes=_notes([*found, *unread], names, utterances, options.split),
        root=source,
        own_labels=labels != KNOWN_NAMES,
    )


def match_columns(found: Sequence[str], table: Path, options: TableOptions) -> dict[str, str]:
    """Field → its column's name in the table, compared without case and spaces.

    Raises `ManifestError` if the table has no audio column, lacks a column that was named, or has
    two for one field.
    """
    names: dict[str, str] = {}
    for option in fields(TableOptions):
        if not option.name.endswith(COLUMN):
            continue
        field, wanted = option.name.removesuffix(COLUMN), getattr(options, option.name)
        near = [name for name in found if plain_name(name) == plain_name(wanted)]
        if len(near) > 1:
            raise ManifestError(
                f"{table}: found columns {near[0]!r} and {near[1]!r}, expected one; rename one"
            )
        if not near and (field == "audio" or wanted != option.default):
            raise ManifestError(
                f"{table}: found columns {', '.join(found)}, expected one named {wanted!r}; name "
                f"it with --{field.replace('_', '-')}-column"
            )
        if near:
            names[field] = near[0]
    return names


def _three_columns(vad: Any, row: dict[str, Any], where: str) -> dict[str, Any]:
    """Dimensions given as one list, by name; a CSV cell holds it as JSON.

    Raises `ManifestError` unless the list has three values, or if a row has both forms.
    """
    if isinstance(vad, str):
        text = vad.strip()
        if not text or text in NO_VALUE:
            return {}
        try:
            vad = decode(text)
        except ValueError:
            vad = text
    if vad is None:
        return {}
    if not isinstance(vad, list) or len(vad) != len(DIMENSIONS):
        raise ManifestError(
            f"{where} is {vad!r:.80}, expected a list of three numbers: {', '.join(DIMENSIONS)}"
        )
    if both := [name for name in DIMENSIONS if row.get(name) not in (None, "")]:
        raise ManifestError(f"{where} and {both[0]}: found both, expected the dimensions once")
    return dict(zip(DIMENSIONS, vad, strict=True))


def _notes(
    found: Sequence[str], names: dict[str, str], utterances: Sequence[Utterance], split: str
) -> list[str]:
    notes = []
    if unused := [name for name in found if name not in names.values()]:
        notes.append(f"Columns of the table that are not used: {', '.join(unused)}")
    if without := sum(not u.split for u in utterances):
        why = "the table has no column for it" if "split" not in names else "their cells are empty"
        rows = counted(without, "row has", "rows have")
        notes.append(f"{rows} no split, counted as {split}: {why}")
    return notes


def _cell_values(
    row: dict[str, Any], names: dict[str, str], where: str, problems: Problems
) -> dict[str, str]:
    """The texts of a row, without outer spaces; a word for a missing value becomes empty."""
    own = {names.get(name, name): value for name, value in row.items()}
    known: dict[str, Field] = dict.fromkeys(own, NAME)
    known[names.get("vad_source", "vad_source")] = SOURCE
    check_fields(own, known, where)
    values = {}
    for field, value in row.items():
        text = as_text(value).strip()
        if text in NO_VALUE:
            problems.add("cells read as empty", f"{where}: {names.get(field, field)} is {text!r}")
            text = ""
        elif "\n" in text:
            problems.add(
                "cells of several lines; a stray quotation mark joins rows",
                f"{where}: {names.get(field, field)} is {text[:60]!r}",
            )
        values[field] = text
    return values


def _utterance(
    row: dict[str, str],
    where: str,
    folder: Path,
    vad_scale: tuple[float, float],
    problems: Problems,
) -> Utterance:
    audio, split = row.get("audio", ""), row.get("split", "")
    if not audio:
        raise ManifestError(f"{where}: found no audio path, expected that of a sound file")
    if split and split.lower() not in SPLITS:
        raise ManifestError(f"{where}: split {split!r}, expected one of {', '.join(SPLITS)}")
    source = row.get("vad_source", "").lower() or "human"
    if source not in get_args(VadSource):
        raise ManifestError(
            f"{where}: vad_source {row['vad_source']!r}, expected one of "
            f"{', '.join(get_args(VadSource))}, or an empty cell for human"
        )
    vad = _rescaled_vad({name: row.get(name) for name in DIMENSIONS}, vad_scale, where, problems)
    return Utterance(
        id=row.get("id") or default_id(audio, folder),
        audio=_member_bytes(audio_below(folder, audio)),
        text=row.get("text", ""),
        response=row.get("response") or None,
        vad=vad,
        vad_source=cast("VadSource", source) if vad else None,
        speaker=row.get("speaker", ""),
        split=split.lower(),
    )


def _member_bytes(audio: str) -> str:
    """Of a member by name, its place in the archive; one that cannot be read is left as it is.

    Whoever opens it gets the reason; `prepare` lists it with the clips that are left out.
    """
    location = parse_location(audio)
    if not isinstance(location, NamedMember):
        return audio
    try:
        return str(open_archive(Path(location.container)).find(location.name))
    except (AudioError, OSError):
        return audio


def _rescaled_vad(
    named: dict[str, str | None], scale: tuple[float, float], where: str, problems: Problems
) -> Vad | None:
    absent = [name for name, value in named.items() if not value]
    if absent:
        if len(absent) < len(named):
            problems.add("rows without all three dimensions", f"{where}: no {', '.join(absent)}")
        return None
    return rescale(list(named.values()), scale, where)
