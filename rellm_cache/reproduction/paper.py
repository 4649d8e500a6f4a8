"""Table I of the paper: its rows, the recipe of each row, and its means."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["reads", "starts", "trains"]
METRICS = ("ER", "EX", "UA")


@dataclass(frozen=True)
class Row:
    """One model of the table."""

    name: str  # name of its folder, and in `--row`
    title: str  # name in the table
    recipe: str  # name of a shipped recipe
    # `reads`: a text model, nothing trains; `starts`: an imported checkpoint before training;
    # `trains`: a trained model.
    kind: Kind
    shuffled: bool = False  # trains on shuffled labels: a control that the paper lacks


ROWS = (
    Row("text-llm", "Text+LLM", "text-llm", "reads"),
    Row("whisper-llm", "Whisper+LLM", "whisper-llm", "reads"),
    Row("text-llm-label", "Text+LLM+label", "text-llm-label", "reads"),
    Row("blsp-emo", "BLSP-Emo", "blsp-emo", "starts"),
    Row("blsp-emo-ft", "BLSP-Emo ft", "blsp-emo", "trains"),
    Row("re-llm", "RE-LLM", "re-llm", "trains"),
    Row("re-llm-no-dimensions", "w/o dim aux", "re-llm-no-dimensions", "trains"),
    Row("re-llm-no-emotion-encoder", "w/o encoder", "re-llm-no-emotion-encoder", "trains"),
)
CONTROL = Row("re-llm-shuffled", "RE-LLM, labels shuffled", "re-llm", "trains", shuffled=True)
MAIN, BASELINE = "re-llm", "blsp-emo-ft"  # the paper tests the first against the second

_NAMES = tuple(row.name for row in ROWS)
_MEANS: dict[str, dict[str, tuple[float | None, ...]]] = {
    "iemocap": {
        "ER": (1.782, 1.723, 1.820, 1.780, 1.771, 1.805, 1.856, None),
        "EX": (0.607, 0.602, 0.885, 0.791, 0.780, 0.822, 0.763, 0.808),
        "UA": (None, None, None, 0.712, 0.728, 0.766, 0.745, 0.729),
    },
    "esd": {
        "ER": (1.609, 1.681, 1.730, 1.740, 1.730, 1.847, 1.851, None),
        "EX": (0.504, 0.592, 1.136, 0.820, 1.098, 1.206, 1.029, 1.114),
        "UA": (None, None, None, 0.960, 0.968, 0.983, 0.989, 0.968),
    },
    "msp-podcast": {
        "ER": (1.704, 1.628, 1.740, 1.775, 1.576, 1.852, 1.889, None),
        "EX": (0.397, 0.420, 0.577, 0.467, 0.521, 0.639, 0.739, 0.546),
        "UA": (None, None, None, 0.574, 0.664, 0.643, 0.664, 0.661),
    },
}


def paper_mean(corpus: str, metric: str, row: str) -> float | None:
    """The paper's mean; None if it has no such corpus, row or value."""
    means = _MEANS.get(corpus, {}).get(metric, ())
    return dict(zip(_NAMES, means, strict=False)).get(row)


def paper_directions(corpus: str, metric: str, row: str, other: str) -> dict[str, float]:
    """Corpus → the paper's mean of `row` minus its mean of `other`, if it has both.

    Holds only the given corpus, or all three if the paper lacks this corpus.
    """
    found = {}
    for name in [corpus] if corpus in _MEANS else list(_MEANS):
        mean, others = paper_mean(name, metric, row), paper_mean(name, metric, other)
        if mean is not None and others is not None:
            found[name] = round(mean - others, 3)
    return found
