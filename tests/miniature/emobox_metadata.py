"""EmoBox metadata in miniature, and that of RAVDESS by its file names.

    python tests/miniature/emobox_metadata.py OUT     # OUT/ravdess: six folds of four actors

The test actors of each fold are those of EmoBox's own files (data/ravdess of the repository).
"""

import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Test actors of EmoBox's folds 1 to 6.
RAVDESS_FOLDS = (
    (1, 11, 20, 21),
    (4, 10, 12, 14),
    (8, 9, 19, 23),
    (3, 5, 7, 24),
    (2, 15, 16, 18),
    (6, 13, 17, 22),
)
EMOTIONS = ("Neutral", "Calm", "Happy", "Sad", "Angry", "Fearful", "Disgust", "Surprised")
LABEL_MAP = {name: name for name in EMOTIONS} | {"Fearful": "Fear", "Surprised": "Surprise"}
DOWNLOADS = "downloads/ravdess/audio/Audio_Speech_Actors_01-24"

Row = dict[str, Any]


def write_fold(
    corpus: Path,
    fold: int,
    splits: Mapping[str, Sequence[Row]],
    place: str = "fold_",
    suffix: str = "jsonl",
) -> None:
    """Write the files of one fold: split (`train`, `test`, `valid`) → rows."""
    folder = corpus / f"{place}{fold}"
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if suffix == "json":
            text = json.dumps({row["key"]: row for row in rows})
        name = f"{corpus.name}_{split}_{place}{fold}.{suffix}"
        (folder / name).write_text(text, encoding="utf-8")


def ravdess_rows(actor: int) -> list[Row]:
    """The 60 rows of one actor, as EmoBox writes them."""
    rows = []
    for emotion, strength, text, take in itertools.product(range(1, 9), (1, 2), (1, 2), (1, 2)):
        if (emotion, strength) == (1, 2):
            continue  # neutral has no strong intensity
        name = f"03-01-{emotion:02d}-{strength:02d}-{text:02d}-{take:02d}-{actor:02d}"
        rows.append(
            {
                "key": f"ravdess-{name}",
                "dataset": "ravdess",
                "wav": f"{DOWNLOADS}/Actor_{actor:02d}/{name}.wav",
                "type": "raw",
                "sample_rate": 48000,
                "num_frame": 180000.0,
                "task": "category",
                "emo": EMOTIONS[emotion - 1],
                "channel": 1,
            }
        )
    return rows


def write_ravdess(out: Path, folds: Sequence[Sequence[int]] = RAVDESS_FOLDS) -> Path:
    """Write `<out>/ravdess` with a fold for each group of test actors; returns the folder."""
    corpus = out / "ravdess"
    rows = {actor: ravdess_rows(actor) for actor in sorted(itertools.chain(*folds))}
    for fold, tested in enumerate(folds, 1):
        train = [row for actor in rows if actor not in tested for row in rows[actor]]
        test = [row for actor in tested for row in rows[actor]]
        write_fold(corpus, fold, {"train": train, "test": test})
    (corpus / "label_map.json").write_text(json.dumps(LABEL_MAP))
    return corpus


if __name__ == "__main__":
    print(write_ravdess(Path(sys.argv[1])))
