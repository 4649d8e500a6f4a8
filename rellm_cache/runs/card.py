"""Model card of a finished run: its `README.md`, with the metadata that a model hub reads.

A card is made only from the files of the run: `recipe.toml`, `adapter_config.json`,
`training.json` and, after `rellm evaluate`, `scores.json`. The same files give the same bytes.
Names, licences and labels are escaped.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import yaml

from rellm_cache.config.schema import Recipe
from rellm_cache.data.speaker_normalization import normalized_streams
from rellm_cache.errors import RunError
from rellm_cache.model.losses.registry import loss_weights
from rellm_cache.runs.licences import (
    UNKNOWN,
    Licences,
    combine_licences,
    describe_corpus_conditions,
)
from rellm_cache.runs.provenance import (
    CORPORA,
    DataSummary,
    TrainingRecord,
    learned_dimensions,
    load_training,
)
from rellm_cache.runs.weights import AdapterInfo, load_info, run_recipe
from rellm_cache.utils.atomic_files import update_text
from rellm_cache.utils.checksums import require_intact
from rellm_cache.utils.console import percent
from rellm_cache.utils.json_files import build_record, load
from rellm_cache.utils.model_files import HUB_ID

CARD, SCORES = "README.md", "scores.json"
MANIFEST = "manifest"  # key of the manifest's path in scores.json; not published
SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|&~$])")


class RawMarkdown(str):
    """Markdown text that must not be escaped again."""

    __slots__ = ()


@dataclass(frozen=True)
class Card:
    """Content of a card; `scores` is None if the run was not evaluated."""

    recipe: Recipe
    info: AdapterInfo
    training: TrainingRecord
    scores: dict[str, Any] | None

    @property
    def licences(self) -> Licences:
        """Licences of the models and corpora that made the adapter."""
        return combine_licences(self.info.licences, self.training.train)

    @property
    def has_trained_dimensions(self) -> bool:
        """Whether the dimension head was trained: its loss has a weight and clips have labels."""
        return learned_dimensions(self.recipe, self.training)

    @property
    def rows(self) -> list[tuple[str, str, float]]:
        """Rows of `scores.json`: the hub's name of the metric, a description, the value."""
        if self.scores is None:
            return []
        head, llm = self.scores["head"], self.scores["llm"] or {}
        empathy = self.scores["empathy"] or {"levels": {}}
        found: list[tuple[str, str, float | None]] = [
            ("recall", "UA, category head", head.get("ua")),
            ("accuracy", "accuracy, category head", head.get("accuracy")),
            ("recall", "UA, LLM by likelihood", llm.get("ua")),
            ("recall", "UA, LLM in words", (llm.get("generation") or {}).get("ua")),
            *(("ccc", f"CCC, {name}", value) for name, value in head["ccc"].items()),
            *(("epitome", f"empathy, {k}", v["mean"]) for k, v in empathy["levels"].items()),
        ]
        return [(kind, name, value) for kind, name, value in found if value is not None]


def read_card(run: Path) -> Card:
    """Read a run's files; `RunError` if it is not finished or a file is unreadable."""
    recipe, info, training = run_recipe(run), load_info(run), load_training(run)
    scores = None
    require_intact(run / SCORES, "remove it, and score the run again with `rellm evaluate`")
    try:
        if (run / SCORES).is_file():
            scores = load(run / SCORES)
            if build_record(DataSummary, scores["data"]).clips < 0:
                raise ValueError("clips < 0")
            if odd := [row for row in Card(recipe, info, training, scores).rows if not _fits(row)]:
                raise ValueError(f"{odd[0][1]}: found {odd[0][2]!r:.40}, expected a number")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(
            f"{run / SCORES}: not a file of `rellm evaluate` ({type(error).__name__}: {error}); "
            "score the run again with `rellm evaluate`, or remove the file"
        ) from error
    return Card(recipe, info, training, scores)


def _fits(row: tuple[str, str, Any]) -> bool:
    return isinstance(row[2], int | float)


def write_card(run: Path) -> Path:
    """Write `<run>/README.md`; errors as in `read_card`."""
    update_text(run / CARD, render_card(read_card(run)))
    return run / CARD


def render_card(card: Card) -> str:
    """Render a card as Markdown, with the hub's metadata at the top."""
    page = (
        _environment()
        .get_template("card.md.j2")
        .render(
            card=card,
            recipe=card.recipe,
            training=card.training,
            licences=card.licences,
            corpus_conditions=describe_corpus_conditions(card.training.train),
            weights=loss_weights(card.recipe.losses),
            rate=f"{next(iter(card.recipe.encoders.values())).frame_rate:g}",
            unknown=UNKNOWN,
            dimensions=card.has_trained_dimensions,
            normalized=normalized_streams(card.recipe.encoders),
        )
    )
    head = yaml.safe_dump(metadata(card), sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n{page.strip()}\n"


def render_licences(card: Card) -> str:
    """Render `LICENSES.md`: every part, its licence and the resulting conditions."""
    page = _environment().get_template("licences.md.j2")
    return page.render(
        licences=card.licences,
        corpus_conditions=describe_corpus_conditions(card.training.train),
        unknown=UNKNOWN,
    )


def metadata(card: Card) -> dict[str, Any]:
    """Metadata at the top of a card; unknown values are left out."""
    recipe = card.recipe
    models = [encoder.model for encoder in recipe.encoders.values()]
    if recipe.used_llm is not None:
        models.insert(0, recipe.used_llm.model)
    bases = [model for model in models if HUB_ID.fullmatch(model)]
    corpora = [name for name in card.training.train.corpora if name in CORPORA]
    found: dict[str, Any] = {}
    if corpora and len(corpora) == len(card.training.train.corpora):
        found["language"] = ["en"]  # rellm reads the English clips of these corpora
    found |= _licence(card.licences)
    found["library_name"] = "rellm"
    found["pipeline_tag"] = "audio-text-to-text" if recipe.needs_llm else "audio-classification"
    found["tags"] = ["rellm", "speech", "emotion-recognition"]
    if recipe.needs_llm:
        found["tags"].append("empathetic-response")
    if bases:
        found |= {"base_model": bases, "base_model_relation": "adapter"}
    if corpora:
        found["datasets"] = corpora
    if card.scores is not None and card.rows:
        found["metrics"] = sorted({kind for kind, _, _ in card.rows})
        found["model-index"] = [_model_index(card, card.scores["data"])]
    return found


def _licence(licences: Licences) -> dict[str, str]:
    strictest = licences.strictest
    if strictest is None or strictest.licence == UNKNOWN:
        return {"license": "other", "license_name": UNKNOWN}
    if strictest.hub_name:
        return {"license": strictest.hub_name}
    return {"license": "other", "license_name": re.sub(r"\W+", "-", strictest.licence.lower())}


def _model_index(card: Card, data: dict[str, Any]) -> dict[str, Any]:
    corpora, splits = ", ".join(data["corpora"]), ", ".join(data["splits"])
    return {
        "name": card.recipe.name,
        "results": [
            {
                "task": {"type": "audio-classification", "name": "Emotion recognition"},
                "dataset": {"type": corpora, "name": corpora, "split": splits},
                "metrics": [
                    {"type": kind, "name": name, "value": round(value, 4)}
                    for kind, name, value in card.rows
                ],
            }
        ],
    }


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rellm_cache.runs", "."),
        autoescape=False,  # Markdown, not HTML: `escape` handles every value
        finalize=escape,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "code": code_span,
        "counts": counts,
        "raw": RawMarkdown,
        "percent": percent,
    }
    return environment


def escape(value: Any) -> Any:
    """Escape a value for Markdown text, on one line."""
    if isinstance(value, RawMarkdown) or not isinstance(value, str):
        return value
    return SPECIAL.sub(r"\\\1", _one_line(value))


def code_span(value: object) -> RawMarkdown:
    """Format a value as a code span for a table cell: one line, no backticks or pipes."""
    return RawMarkdown("`" + re.sub(r"[`|]", "'", _one_line(str(value))) + "`")


def counts(value: dict[str, int]) -> str:
    """Format counts, as `angry 144, happy 144`."""
    return ", ".join(f"{name} {count:,}" for name, count in value.items())


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
