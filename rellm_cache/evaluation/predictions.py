"""What a run said of clips, kept. In: a folder, what each row follows from. Out: rows, after kills.

<out>/evaluated.jsonl   a row an utterance: what the heads and the LLM call its emotion, dimensions,
                        the answer and its empathy, as far as they were asked for; and one row
                        of all together, whose id is empty: losses

Each row says what it was made from. A row that was made from something else is never looked at.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rellm_cache.utils.atomic_files import write_lines
from rellm_cache.utils.result_table import Journal, journal_beside, read_journal

EVALUATED = "evaluated.jsonl"
OF_ALL = ""  # in place of an id, which no utterance has empty


class PredictionLog:
    """Rows by id, from the file of a finished evaluation and the journal of a killed one.

    Args:
        out: folder of the evaluation.
        made_from: id → digest of all that its row follows from.

    Raises:
        JournalError: a line cannot be read.

    Attributes:
        journal: where rows wait until they are all there.
    """

    def __init__(self, out: Path, made_from: Mapping[str, str]) -> None:
        self._path = out / EVALUATED
        self.journal = journal_beside(self._path)
        self._before = list(read_journal(self._path))
        self._rows = {name: {"id": name, "made_from": made} for name, made in made_from.items()}
        for row in (*self._before, *read_journal(self.journal)):
            own: dict[str, Any] = self._rows.get(str(row.get("id")), {})
            if own and row.get("made_from") == own["made_from"]:
                own.update(row)

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        """What is known of an utterance, by its id, or of all together."""
        return self._rows[name]

    def keep(self, journal: Journal, name: str, **said: Any) -> None:
        """Remember more of an utterance; values are as JSON has them."""
        row = self._rows[name]
        row.update(said)
        journal.append({"id": name, "made_from": row["made_from"], **said})

    def finish(self) -> bool:
        """Write the rows of an evaluation that has all it asked for; whether any is new."""
        rows = list(self._rows.values())
        changed = rows != self._before
        if changed:
            write_lines(self._path, rows)
        self.journal.unlink(missing_ok=True)
        return changed
