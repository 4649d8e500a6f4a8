"""Empathy scorers compared with TF-IDF on EPITOME's tables, with a fifth of the posts held out.

    python tests/benchmarks/empathy.py EPITOME --encoder FOLDER --seeds 12 13 14 --out scorers

One scorer per seed, always with the same held-out posts. The baseline is logistic regression on
TF-IDF of one and two words, with "?" as a word and balanced levels; its C is chosen by
cross-validation over the other posts. `--set KEY=VALUE` changes a setting. `--choose` scores only
validation posts; use it to choose settings.
"""

import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from options import make_parser, write_figures
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline

from rellm_cache.empathy.epitome import Split
from rellm_cache.empathy.settings import make_settings
from rellm_cache.empathy.training import encode_data, find_sources, train_scorers


def baseline(split: Split, mechanism: str) -> dict[str, float]:
    """Macro F1 and accuracy of TF-IDF and logistic regression on what is held out."""
    known = [e for e in (*split.train, *split.validation) if mechanism in e.levels]
    held = [e for e in split.test if mechanism in e.levels]
    words = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=2, token_pattern=r"(?u)\b\w+\b|\?"
    )
    model = GridSearchCV(
        make_pipeline(words, LogisticRegression(class_weight="balanced", max_iter=2000)),
        {"logisticregression__C": [1, 10]},
        scoring="f1_macro",
        cv=GroupKFold(5),
    )
    levels = [e.levels[mechanism] for e in known]
    model.fit([e.response_post for e in known], levels, groups=[e.post for e in known])
    found = model.predict([e.response_post for e in held])
    true = [e.levels[mechanism] for e in held]
    return {
        "macro_f1": float(f1_score(true, found, average="macro")),
        "accuracy": float(accuracy_score(true, found)),
    }


def main() -> None:
    """Train a scorer for each seed, score the same held-out posts, print and write the figures."""
    parser = make_parser(__doc__)
    parser.add_argument("data", type=Path, help="folder of EPITOME's CSV files")
    parser.add_argument("--encoder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[12, 13, 14])
    parser.add_argument("--set", dest="changes", action="append", default=[])
    parser.add_argument("--out", type=Path, required=True, help="folder of the scorers")
    parser.add_argument("--choose", action="store_true", help="show validation scores alone")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = make_settings(options.encoder, options.changes)
    sources = find_sources(options.data, settings)
    data = encode_data(sources, settings)
    parts = [p for p in data.parts if p.startswith("validation") or not options.choose]
    rows: dict[str, list[float]] = {}
    for seed in options.seeds:
        begun = time.process_time()
        card = train_scorers(data, options.out / f"seed{seed}", replace(settings, seed=seed))
        print(f"seed {seed}: {time.process_time() - begun:.0f} s of processor", flush=True)
        for part in parts:
            for name, scores in card.scores[part].items():
                print(f"  {part} {name}: macro F1 {scores['macro_f1']:.3f}, "
                      f"accuracy {scores['accuracy']:.3f}, ECE {scores['calibration_error']:.3f}, "
                      f"F1 {[round(v, 2) for v in scores['f1'].values()]}", flush=True)  # fmt: skip
                for key in ("macro_f1", "accuracy", "calibration_error"):
                    rows.setdefault(f"{part} {name} {key}", []).append(scores[key])
    figures = {
        key: {"mean": round(statistics.mean(values), 4), "sd": round(statistics.pstdev(values), 4),
              "seeds": [round(v, 4) for v in values]}
        for key, values in rows.items()
    }  # fmt: skip
    base = {}
    if not options.choose:
        base = {name: baseline(sources.split, name) for name in sources.mechanisms}
    write_figures(options, {"scorer": figures, "tfidf": base})


if __name__ == "__main__":
    main()
