"""Table I of the paper, reproduced on a corpus.

<out>/settings.json      the request; a call with another request is refused
<out>/manifests/         manifests of the corpus with expected responses
<out>/blsp/<row>/        imports of a BLSP-Emo checkpoint
<out>/<fold>/manifest/   splits of a fold; shuffled/ holds those of the control
<out>/<fold>/<row>/      run, answers, scores (`runs`)
<out>/utterances.csv     every answer with its scores
<out>/table1.json, table1.html

A step is skipped if its result exists, so a killed call resumes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rellm_cache.annotation.responses import respond
from rellm_cache.config.recipes import identity_toml, load_recipe
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import Utterance, manifest_files, read_manifests, write_manifest
from rellm_cache.reproduction.answers import UTTERANCES, Record, collect_records, write_records
from rellm_cache.reproduction.folds import Fold, read_folds, shuffle_labels, split_utterances
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
    transcribe_tests,
)
from rellm_cache.reproduction.runs import Failure, Job, run_jobs
from rellm_cache.reproduction.table_statistics import Comparison, RowResult, compare, summarize_row
from rellm_cache.utils.locks import hold_folder

# Fold -> split -> utterances.
Splits = Mapping[str, Mapping[str, Sequence[Utterance]]]


@dataclass(frozen=True)
class Reproduction:
    """Table I on one corpus."""

    request: Request
    folds: list[str]  # names of the folds
    test_clips: int  # clips in all test splits
    rows: list[RowResult]  # results in the paper's order
    comparisons: list[Comparison]  # RE-LLM against every other row
    absent: dict[str, str]  # name of a missing row → the reason
    failures: list[Failure]  # models that failed
    records: list[Record] = field(repr=False)  # every answer with its scores

    @property
    def notes(self) -> list[str]:
        """Notes about the rows."""
        stand_in = self.request.stand_in
        if stand_in is None or all(row.row.kind != "starts" for row in self.rows):
            return []
        return [f"BLSP-Emo: not the authors' checkpoint; the run {stand_in} stands in for it"]


def reproduce(request: Request) -> Reproduction:
    """Run all steps that are not done yet, and make the table.

    A model that fails is listed, and the others continue.

    Raises:
        RellmError: a step that all others need failed, `out` holds another reproduction, or another
            process writes it.
    """
    with hold_folder(request.out):
        return _reproduce(request)


def _reproduce(request: Request) -> Reproduction:
    rows = request.wanted
    claim_folder(request)
    all_folds = read_folds(request.source)
    manifests = prepare_corpus(request, all_folds)
    folds = all_folds[: request.folds or None]
    absent: dict[str, str] = {}
    models = find_models(request, rows, absent)
    encode(request, models, manifests)
    write_responses(request, all_folds, manifests)
    utterances = read_manifests(manifests)
    splits = {fold.name: split_utterances(utterances, fold) for fold in folds}
    write_folds(request, splits, shuffled=CONTROL in models)
    transcribe_tests(request, models, list(splits), absent)
    same_as = find_equal_rows(models, any(u.vad for u in utterances))
    jobs = make_jobs(request, list(splits), models, same_as)
    failures = list(run_jobs(jobs, request.processes))
    failed = {failure.title for failure in failures}
    finished = [job for job in jobs if job.title not in failed]
    records = collect_records(finished, request.empathy)
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
        test_clips=sum(len(parts["test"]) for parts in splits.values()),
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


def write_responses(request: Request, folds: Sequence[Fold], manifests: Path) -> None:
    """Write expected responses of the clips that train or validate in any fold."""
    recipe = load_recipe(MAIN, request.overrides, request.base)
    learned = {split for fold in folds for split in fold.split_of.values()} - {"test"}
    if len(folds) > 1:
        respond(manifests, recipe)
        return
    for file in manifest_files(manifests):
        if file.stem in learned:
            respond(file, recipe)


def find_equal_rows(models: Models, has_vad: bool) -> dict[str, str]:
    """Rows that are the same model as an earlier row on this corpus: name → name of that row.

    Args:
        has_vad: whether any clip has dimensions.
    """
    first_of: dict[tuple[object, ...], str] = {}
    same_as: dict[str, str] = {}
    for row, model in models.items():
        made = [
            identity_toml(_effective(r, has_vad))
            for r in (model.recipe, model.first)
            if r is not None
        ]
        key = (*made, model.ready is None, row.shuffled)
        if (other := first_of.setdefault(key, row.name)) != row.name:
            same_as[row.name] = other
    return same_as


def write_folds(request: Request, splits: Splits, shuffled: bool) -> None:
    """Write the manifest of each fold and, if `shuffled`, another one with shuffled labels."""
    for fold, parts in splits.items():
        write_parts(request.out / fold / MANIFEST, parts)
        if shuffled:
            shuffled_parts = {
                split: found if split == "test" else shuffle_labels(found, request.source.seed)
                for split, found in parts.items()
            }
            write_parts(request.out / fold / SHUFFLED, shuffled_parts)


def make_jobs(
    request: Request, folds: Sequence[str], models: Models, same_as: Mapping[str, str]
) -> list[Job]:
    """Jobs of all models on all folds, fold by fold."""
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
    """Write a manifest of the splits that are not empty."""
    for split, utterances in parts.items():
        if utterances:
            write_manifest(folder / f"{split}.jsonl", utterances)


def _effective(recipe: Recipe, has_vad: bool) -> Recipe:
    """The recipe without the dimension head and its loss if no clip has dimensions."""
    recipe = replace(recipe, name="")
    if has_vad:
        return recipe
    return replace(
        recipe,
        heads=replace(recipe.heads, dimensions=False),
        losses=replace(recipe.losses, vad=0.0),
    )


def to_json(found: Reproduction) -> dict[str, object]:
    """Content of `table1.json`: everything except the individual answers."""
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
