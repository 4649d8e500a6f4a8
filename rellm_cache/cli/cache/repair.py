"""rellm cache repair, prune and compact; a kill loses no intact data."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rellm_cache.cli import options
from rellm_cache.cli.output import DAMAGED, SOME_FAILED, byte_size, first_ids, print_stores
from rellm_cache.store.remote.mirror_paths import display_path
from rellm_cache.utils.console import counted

if TYPE_CHECKING:
    from rellm_cache.cache_admin.maintenance import CacheRepair
    from rellm_cache.store.maintenance.repair import RepairReport


@click.command()
@options.root_argument
@click.option(
    "--unfinished-hours",
    type=options.FiniteRange(min=0),
    default=24.0,
    metavar="HOURS",
    help="In an object store: remove incomplete parts older than this.",
)
@options.as_json
def repair(root: Path, unfinished_hours: float, as_json: bool) -> int:
    """Drop damaged data under ROOT and list the lost clips.

    All intact data is kept; the lost clips must be extracted again. The command also removes what
    killed processes left, in ROOT/.writing or incomplete in an object store. A file beside each
    store lists the lost clips. Exit code 3: clips were lost. Exit code 1: something is still
    damaged.
    """
    from rellm_cache.cache_admin.maintenance import repair_cache

    done = repair_cache(root, unfinished_hours)
    if as_json:
        leftovers = {"removed": [*map(str, done.removed)], "held": [*map(str, done.held)]}
        unfinished = [vars(part) for part in done.stale_uploads]
        print_stores(root, done.stores, leftovers=leftovers, unfinished=unfinished)
    else:
        _show_leftovers(done)
        for report in done.stores:
            _show_repair(report)
    if any(report.unrepaired for report in done.stores):
        return DAMAGED
    lost = any(report.lost or report.nameless for report in done.stores)
    return SOME_FAILED if lost else 0


def _show_leftovers(done: "CacheRepair") -> None:
    for path in done.removed:
        click.echo(f"{path}: left by a dead process; removed")
    for path in done.held:
        click.echo(f"{path}: may be in use by another process; kept")
    for part in done.stale_uploads:
        age = "of unknown age" if part.hours is None else f"{part.hours:.1f} hours old"
        what = f"{counted(part.files, 'file')}, {byte_size(part.nbytes)}, {age}"
        result = "removed" if part.removed else "the upload may still be active; kept"
        click.echo(f"{part.place}: incomplete upload ({what}): {result}")


def _show_repair(report: "RepairReport") -> None:
    from rellm_cache.store.format import lost_path

    if not report.problems:
        click.echo(f"{display_path(report.store)}: intact, nothing to do")
        return
    for problem in report.problems:
        click.echo(f"  {problem}")
    click.echo(
        f"{display_path(report.store)}: {counted(report.rewritten, 'part')} rewritten with "
        f"{counted(report.kept, 'intact utterance')}, {report.removed} removed"
    )
    for problem in report.unrepaired:
        click.echo(f"  not repaired: {problem}")
    if report.nameless:
        click.echo(f"  {counted(report.nameless, 'removed part')} had unreadable ids")
    if report.lost:
        click.echo(f"  {counted(len(report.lost), 'clip')} lost: {first_ids(report.lost)}")
        click.echo(f"  all are listed in {display_path(lost_path(report.store))}")
    if report.lost or report.nameless:
        click.echo("  `rellm extract` with their manifest encodes them again")
        click.echo("  (for an int8 store: `rellm cache quantize` with the float16 store)")


@click.command()
@options.root_argument
@click.option(
    "--keep",
    "manifests",
    multiple=True,
    type=options.EXISTING,
    help="Also drop clips that are not in this manifest file or folder. Repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Report what would be dropped, change nothing.")
@options.as_json
def prune(root: Path, manifests: tuple[Path, ...], dry_run: bool, as_json: bool) -> None:
    """Drop old frames of clips that were encoded again.

    No reader sees these frames.
    """
    from rellm_cache.cache_admin.maintenance import prune_cache

    reports = prune_cache(root, manifests, dry_run)
    if as_json:
        print_stores(root, reports, dry_run=dry_run)
        return
    for report in reports:
        verb = "would free" if dry_run else "freed"
        click.echo(
            f"{display_path(report.store)}: {verb} {byte_size(report.bytes)}: "
            f"{counted(report.superseded, 'superseded row')}, "
            f"{counted(report.outside, 'clip')} outside the manifests; "
            f"{counted(report.parts_removed, 'part')} removed, {report.parts_rewritten} rewritten"
        )


@click.command()
@options.root_argument
@click.option(
    "--part-size",
    type=options.COUNT,
    default=256,
    metavar="MIB",
    help="Largest size of the frames of a merged part.",
)
@options.as_json
def compact(root: Path, part_size: int, as_json: bool) -> None:
    """Merge small adjacent parts of every store under ROOT."""
    from rellm_cache.cache_admin.maintenance import compact_cache

    reports = compact_cache(root, part_size << 20)
    if as_json:
        print_stores(root, reports)
        return
    for report in reports:
        before = counted(report.parts_before, "part")
        click.echo(f"{display_path(report.store)}: {before}, now {report.parts_after}")
