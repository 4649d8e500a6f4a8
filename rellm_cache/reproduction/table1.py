"""reproduce table1. In: a corpus's folder, a base recipe, an empathy scorer. Out: Table I.

<out>/settings.json      what was asked for: the same command goes on, another is refused
<out>/manifests/         the corpus, its expected responses beside it
<out>/blsp/<row>/        what was imported from a BLSP-Emo checkpoint
<out>/<fold>/manifest/   the splits of a fold; shuffled/ where labels are dealt out anew
<out>/<fold>/<row>/      run, answers, scores (`jobs`)
<out>/utterances.csv     every answer with its scores
<out>/table1.json, table1.html

Every step is skipped where its result is there, so that a killed call goes on.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rellm_cache.annotation.responses import respond
from rellm_cache.config.recipes import load_recipe, to_toml
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import (
    Utterance,
    manifest_files,
    read_manifests,
    write_manifest,
)
from rellm_cache.reproduction.answers import UTTERANCES, Record, collect, write_records
from rellm_cache.reproduction.folds import Fold, cut, read_folds, shuffle_labels
from rellm_cache.reproduction.paper import CONTROL, MAIN
from rellm_cache.reproduction.prepare import (
    MANIFEST,
    SHUFFLED,
    Models,
    Request,
    claim_folder,
    encode,
    find_models,
    prepare_corpus,
    write_down,
)
from rellm_cache.reproduction.runs import Failure, Job, run_jobs
from rellm_cache.reproduction.statistics import Comparison, RowResult, compare, summarize_row

# Fold -> split -> its utterances.
Divided = Mapping[str, Mapping[str, Sequence[Utterance]]]


@dataclass(frozen=True)
class Reproduction:
    """Table I on one corpus.

    Attributes:
        request: what was asked for.
        folds: names.
        test_clips: in all test splits.
        rows: in the paper's order.
        comparisons: RE-LLM against every other row.
        absent: name of a row → why it is not there.
        failures: models that failed.
        records: every answer.
    """

    request: Request
    folds: list[str]
    test_clips: int
    rows: list[RowResult]
    comparisons: list[Comparison]
    absent: dict[str, str]
    failures: list[Failure]
    records: list[Record] = field(repr=False)

    @property
    def notes(self) -> list[str]:
        """What a reader must know of the rows."""
        stand_in = self.request.stand_in
        if stand_in is None or all(row.row.kind != "starts" for row in self.rows):
            return []
        return [f"BLSP-Emo: not its authors' checkpoint; the run {stand_in} stands for it"]


def reproduce(request: Request) -> Reproduction:
    """Do whatever is not done yet, and make the table.

    Raises:
        RellmError: a step failed that everything after it needs, or `out` holds a reproduction
            of something else. A model that fails is listed while the others are made.
    """
    rows = request.wanted
    claim_folder(request)
    every = read_folds(request.source)
    manifests = prepare_corpus(request, every)
    folds = every[: request.folds or None]
    absent: dict[str, str] = {}
    models = find_models(request, rows, absent)
    encode(request, models, manifests)
    expect_responses(request, every, manifests)
    utterances = read_manifests(manifests)
    divided = {fold.name: cut(utterances, fold) for fold in folds}
    write_folds(request, divided, shuffled=CONTROL in models)
    write_down(request, models, list(divided), absent)
    same_as = find_equal_rows(models, any(u.vad for u in utterances))
    jobs = make_jobs(request, list(divided), models, same_as)
    failures = list(run_jobs(jobs, request.processes))
    failed = {failure.title for failure in failures}
    finished = [job for job in jobs if job.title not in failed]
    records = collect(finished, request.empathy)
    write_records(request.out / UTTERANCES, records)
    by_row: dict[str, list[Record]] = {}
    for record in records:
        by_row.setdefault(record.row, []).append(record)
    for name, other in same_as.items():
        if other in by_row:
            by_row[name] = by_row[other]
    corpus = request.source.corpus
    return Reproduction(
        request=request,
        folds=[fold.name for fold in folds],
        test_clips=sum(len(parts["test"]) for parts in divided.values()),
        rows=[
            summarize_row(row, by_row[row.name], corpus, same_as.get(row.name, ""))
            for row in rows
            if row.name in by_row
        ],
        comparisons=compare(by_row, same_as, corpus),
        absent=absent,
        failures=failures,
        records=records,
    )


def expect_responses(request: Request, folds: Sequence[Fold], manifests: Path) -> None:
    """Step 1 for every clip that trains or validates in some fold."""
    recipe = load_recipe(MAIN, request.overrides, request.base)
    learned = {split for fold in folds for split in fold.split_of.values()} - {"test"}
    if len(folds) > 1:
        respond(manifests, recipe)
        return
    for file in manifest_files(manifests):
        if file.stem in learned:
            respond(file, recipe)


def find_equal_rows(models: Models, felt: bool) -> dict[str, str]:
    """Rows that are another row's model on this corpus: name → name of the first of its kind.

    Args:
        felt: whether any clip has dimensions.
    """
    first_of: dict[tuple[object, ...], str] = {}
    same_as: dict[str, str] = {}
    for row, model in models.items():
        made = [to_toml(_effective(r, felt)) for r in (model.recipe, model.first) if r is not None]
        key = (*made, model.ready is None, row.shuffled)
        if (other := first_of.setdefault(key, row.name)) != row.name:
            same_as[row.name] = other
    return same_as


def write_folds(request: Request, divided: Divided, shuffled: bool) -> None:
    """The manifest of each fold, and where `shuffled` also one whose labels are dealt out anew."""
    for fold, parts in divided.items():
        write_parts(request.out / fold / MANIFEST, parts)
        if shuffled:
            dealt = {
                split: found if split == "test" else shuffle_labels(found, request.source.seed)
                for split, found in parts.items()
            }
            write_parts(request.out / fold / SHUFFLED, dealt)


def make_jobs(
    request: Request, folds: Sequence[str], models: Models, same_as: Mapping[str, str]
) -> list[Job]:
    """Every model on every fold, fold by fold."""
    return [
        Job(
            fold=fold,
            row=row,
            model=model,
            manifest=request.out / fold / (SHUFFLED if row.shuffled else MANIFEST),
            cache=request.cache,
            out=request.out / fold / row.name,
            batch_size=request.batch_size,
        )
        for fold in folds
        for row, model in models.items()
        if row.name not in same_as
    ]


def write_parts(folder: Path, parts: Mapping[str, Sequence[Utterance]]) -> None:
    """A manifest of the splits that have utterances."""
    for split, utterances in parts.items():
        if utterances:
            write_manifest(folder / f"{split}.jsonl", utterances)


def _effective(recipe: Recipe, felt: bool) -> Recipe:
    """What of a recipe matters on a corpus: nothing of dimensions where no clip has any."""
    recipe = replace(recipe, name="")
    if felt:
        return recipe
    return replace(
        recipe,
        heads=replace(recipe.heads, dimensions=False),
        losses=replace(recipe.losses, vad=0.0),
    )


def to_json(found: Reproduction) -> dict[str, object]:
    """As `table1.json` has it: all but the single answers."""
    request = found.request
    return {
        "corpus": request.source.corpus,
        "splits": request.source.splits,
        "base": request.base,
        "set": list(request.overrides),
        "first": request.first,
        "seed": request.source.seed,
        "empathy": str(request.empathy) if request.empathy else None,
        "folds": found.folds,
        "test_clips": found.test_clips,
        "rows": [dataclasses.asdict(row) for row in found.rows],
        "notes": found.notes,
        "comparisons": [
            {**dataclasses.asdict(c), "direction": c.direction} for c in found.comparisons
        ],
        "absent": found.absent,
        "failures": [dataclasses.asdict(failure) for failure in found.failures],
    }
