"""Question files: rows of questions and answers as JSON Lines in a manifest folder.

Each manifest file has a `<split>.questions.jsonl` in the same folder. It also has the rows that a
filter dropped, with the reason and the LLM's text.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rellm_cache.config.qa import MODES, TYPES, QAMode, QAType
from rellm_cache.config.specs import digest
from rellm_cache.corpus.field_validation import BOOL, TEXT, Field, check_fields, json_object
from rellm_cache.corpus.manifest import manifest_files, read_lines
from rellm_cache.errors import ManifestError
from rellm_cache.utils.atomic_files import write_lines
from rellm_cache.utils.resumable_table import with_fingerprint


@dataclass(frozen=True)
class QARow:
    """One question about one utterance, with its origin."""

    id: str  # of the utterance
    mode: QAMode  # `explicit`: training may see the metadata; `implicit`: speech and question only
    type: QAType  # topic of the question
    index: int  # number of the pair among those of one request
    question: str  # empty, like the answer, if the text could not be parsed
    answer: str
    early_stop: bool  # whether the token limit cut the LLM's text
    metadata: str  # emotion and dimensions in words; empty in implicit rows
    emotion: str  # the utterance's label, which the request contains
    label_source: str  # of the labels in the request: `corpus`, `pseudo` (a model) or `made`
    vad_source: str | None  # `human`, `pseudo` or `made`; None without dimensions
    model: str  # the LLM's name in the recipe
    weights: str  # SHA-256 of the LLM's files
    fingerprint: str  # digest of everything that determines the text, except the prompt
    prompt: str  # SHA-256 of the request
    seed: int  # of sampling
    written: str  # the complete text of the LLM
    guess: dict[str, float] | None = None  # emotion → probability by the transcript alone
    dropped: str = ""  # reason why training skips the row; empty if it uses the row

    @property
    def key(self) -> str:
        """Digest of utterance, type and question, which one row of answers has."""
        return question_key(self.id, self.type, self.question)


def question_key(utterance_id: str, kind: str, question: str) -> str:
    """The key of a `QARow`."""
    return digest([utterance_id, kind, question])


_FIELDS = {field.name: field for field in dataclasses.fields(QARow)}
_REQUIRED = {n for n, field in _FIELDS.items() if field.default is dataclasses.MISSING}
_CHECKED: dict[str, Field] = {
    **dict.fromkeys(("id", "question", "answer", "metadata", "dropped"), TEXT),
    "early_stop": BOOL,
    "guess": json_object("emotions and probabilities"),
}
_NULLABLE = ("vad_source", "guess")


def questions_path(manifest: Path) -> Path:
    """Path of a manifest file's questions, in the same folder."""
    return manifest.with_name(f"{manifest.stem}.questions.jsonl")


def read_rows(path: Path) -> list[QARow]:
    """All rows of a file, also dropped ones; `ManifestError` names an invalid line."""
    return [_parse_row(with_fingerprint(row), where) for where, row in read_lines(path)]


def write_rows(path: Path, rows: Iterable[QARow]) -> None:
    """Write rows in one step; optional fields with their default value are left out."""
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
    """Utterance id → its rows of the given modes and types, without dropped ones.

    Args:
        manifest: file or folder.
        splits: splits of a folder to read; empty for all.

    Raises:
        ManifestError: a manifest file has no question file in its folder.
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


def distinct_questions(questions: Mapping[str, Sequence[QARow]]) -> list[QARow]:
    """Each question about an utterance once, in any mode."""
    unique = {(r.id, r.type, r.question): r for rows in questions.values() for r in rows}
    return list(unique.values())
