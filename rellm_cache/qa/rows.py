"""Rows of questions and answers: JSON Lines beside a manifest. In: files. Out: `QARow`s, and back.

A file `<split>.questions.jsonl` lies beside each manifest file, as expected responses do. Rows that
a filter dropped are in it too, with their reason and what the LLM wrote, to be looked at.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rellm_cache.config.qa import MODES, TYPES, QAMode, QAType
from rellm_cache.corpus.manifest import manifest_files, read_lines
from rellm_cache.corpus.validation import Field, check_fields, is_bool, is_object, is_text
from rellm_cache.errors import ManifestError
from rellm_cache.utils.atomic_files import write_lines
from rellm_cache.utils.result_table import with_fingerprint


@dataclass(frozen=True)
class QARow:
    """One question about one utterance, and where it comes from.

    Attributes:
        id: of the utterance.
        mode: `explicit`: training may see the metadata; `implicit`: speech and question alone.
        type: what is asked about.
        index: of the pair among those that one request gave.
        question, answer: empty where nothing could be read from what the LLM wrote.
        early_stop: the token limit cut what the LLM wrote.
        metadata: emotion and binned dimensions in words; empty in implicit rows.
        emotion: the utterance's label, which the writer was told.
        label_source: who gave the labels that the writer was told: `corpus`; `pseudo` (a model) or
            `made` (a generator) where the dimensions among them are theirs.
        vad_source: who gave the dimensions: `human`, `pseudo`, `made`, or None without any.
        model: of the writer, as the recipe names it.
        weights: SHA-256 of the writer's files: its revision, wherever it lies.
        fingerprint: digest of all that decides what is written but the prompt.
        prompt: SHA-256 of the request.
        seed: of sampling.
        written: what the LLM wrote, whole.
        guess: for emotion questions, how probable the transcript alone makes each emotion to the
            writer; else None.
        dropped: why training leaves it out; empty if it does not.
    """

    id: str
    mode: QAMode
    type: QAType
    index: int
    question: str
    answer: str
    early_stop: bool
    metadata: str
    emotion: str
    label_source: str
    vad_source: str | None
    model: str
    weights: str
    fingerprint: str
    prompt: str
    seed: int
    written: str
    guess: dict[str, float] | None = None
    dropped: str = ""


_FIELDS = {field.name: field for field in dataclasses.fields(QARow)}
_REQUIRED = {n for n, field in _FIELDS.items() if field.default is dataclasses.MISSING}
_CHECKED: dict[str, Field] = {
    **dict.fromkeys(("id", "question", "answer", "metadata", "dropped"), (is_text, "text")),
    "early_stop": (is_bool, "true or false"),
    "guess": (is_object, "an object of emotions and probabilities"),
}
_NULLABLE = ("vad_source", "guess")


def questions_path(manifest: Path) -> Path:
    """Where the questions about the utterances of one manifest file lie."""
    return manifest.with_name(f"{manifest.stem}.questions.jsonl")


def read_rows(path: Path) -> list[QARow]:
    """All rows of a file, dropped ones too; `ManifestError` names the line that is not one."""
    return [_parse_row(with_fingerprint(row), where) for where, row in read_lines(path)]


def write_rows(path: Path, rows: Iterable[QARow]) -> None:
    """Write rows in one step; fields that say nothing are left out."""
    write_lines(path, (_plain(row) for row in rows))


def _plain(row: QARow) -> dict[str, Any]:
    values = dataclasses.asdict(row)
    return {n: v for n, v in values.items() if n in _REQUIRED or v != _FIELDS[n].default}


def _parse_row(row: dict[str, Any], where: str) -> QARow:
    if missing := sorted(_REQUIRED - row.keys()):
        raise ManifestError(f"{where}: found no {missing[0]!r}; expected a row of `rellm qa`")
    if unknown := sorted(row.keys() - _FIELDS.keys()):
        raise ManifestError(f"{where}: unknown key {unknown[0]!r}; expected a row of `rellm qa`")
    for name, known in (("mode", MODES), ("type", TYPES)):
        if row[name] not in known:
            raise ManifestError(
                f"{where}: found {name} {row[name]!r}, expected one of {list(known)}"
            )
    check_fields(row, _CHECKED, where)
    if absent := [name for name, v in row.items() if v is None and name not in _NULLABLE]:
        raise ManifestError(f"{where}: found {absent[0]} None, expected a value")
    return QARow(**row)


def read_questions(
    manifest: Path,
    modes: Sequence[QAMode] = MODES,
    types: Sequence[QAType] = TYPES,
    splits: Sequence[str] = (),
) -> dict[str, list[QARow]]:
    """Utterance id → its rows of some modes and types that no filter dropped.

    Args:
        manifest: file or folder.
        splits: of a folder that are read; empty for all.

    Raises:
        ManifestError: a manifest file has no questions beside it.
    """
    found: dict[str, list[QARow]] = {}
    for file in manifest_files(manifest):
        if splits and file.stem not in splits:
            continue
        path = questions_path(file)
        if not path.exists():
            raise ManifestError(
                f"{path}: no such file; `rellm qa {manifest} --recipe …` writes the questions"
            )
        for row in read_rows(path):
            if row.mode in modes and row.type in types and not row.dropped:
                found.setdefault(row.id, []).append(row)
    return found


def distinct(questions: Mapping[str, Sequence[QARow]]) -> list[QARow]:
    """Each question about an utterance once, whatever its mode."""
    unique = {(r.id, r.type, r.question): r for rows in questions.values() for r in rows}
    return list(unique.values())
