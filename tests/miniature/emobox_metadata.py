"""EmoBox metadata in miniature, and that of RAVDESS by its file names.

    python tests/miniature/emobox_metadata.py OUT     # OUT/ravdess: six folds of four actors

EmoBox's own six folds of RAVDESS hold other groups of four actors; only the shape is the same.
"""

import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ACTORS = range(1, 25)
FOLD_ACTORS = 4
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


def write_ravdess(out: Path, actors: Sequence[int] = ACTORS) -> Path:
    """Write `<out>/ravdess` with a fold for each four actors; returns the folder."""
    corpus = out / "ravdess"
    rows = {actor: ravdess_rows(actor) for actor in actors}
    for fold, start in enumerate(range(0, len(actors), FOLD_ACTORS), 1):
        tested = actors[start : start + FOLD_ACTORS]
        train = [row for actor in actors if actor not in tested for row in rows[actor]]
        test = [row for actor in tested for row in rows[actor]]
        write_fold(corpus, fold, {"train": train, "test": test})
    (corpus / "label_map.json").write_text(json.dumps(LABEL_MAP))
    return corpus


if __name__ == "__main__":
    print(write_ravdess(Path(sys.argv[1])))
