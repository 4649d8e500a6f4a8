"""rellm cache repair, prune and compact: none can lose committed data when it is killed."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rellm_cache.cli.cache.arguments import DAMAGED, root_argument, show_ids
from rellm_cache.cli.options import CLIPS_FAILED, byte_size, json_option
from rellm_cache.store.remote.mirror_paths import display_path
from rellm_cache.utils.console import counted

if TYPE_CHECKING:
    from rellm_cache.cache_admin.maintenance import CacheRepair
    from rellm_cache.store.maintenance.repair import RepairReport


@click.command()
@root_argument
@click.option(
    "--unfinished-hours",
    type=click.FloatRange(min=0),
    default=24.0,
    show_default=True,
    metavar="HOURS",
    help="In an object store: remove a part that was not sent whole once it is so old.",
)
@json_option
def repair(root: Path, unfinished_hours: float, as_json: bool) -> int:
    """Drop what is broken under ROOT, keep all that is whole, and name what to extract again.

    Also removes what killed processes left, in ROOT/.writing or half sent to an object store. The
    list of lost clips is kept in a file beside the store. Exit code 3: clips were lost. Exit code
    1: something is still broken.
    """
    from rellm_cache.cache_admin.maintenance import repair_cache

    done = repair_cache(root, unfinished_hours)
    if as_json:
        stores = [vars(r) | {"store": r.store.name} for r in done.stores]
        swept = {"removed": [str(p) for p in done.swept], "held": [str(p) for p in done.held]}
        unfinished = [vars(part) for part in done.unfinished]
        done_here = {"root": display_path(root), "stores": stores, "leftovers": swept}
        click.echo(json.dumps(done_here | {"unfinished": unfinished}))
    else:
        _show_leftovers(done)
        for report in done.stores:
            _show_repair(report)
    if any(report.unrepaired for report in done.stores):
        return DAMAGED
    lost = any(report.lost or report.nameless for report in done.stores)
    return CLIPS_FAILED if lost else 0


def _show_leftovers(done: "CacheRepair") -> None:
    for path in done.swept:
        click.echo(f"{path}: left by a process that is gone, removed")
    for path in done.held:
        click.echo(f"{path}: being written, or nobody can tell; left alone")
    for part in done.unfinished:
        age = "of unknown age" if part.hours is None else f"{part.hours:.1f} hours old"
        what = f"{counted(part.files, 'file')}, {byte_size(part.nbytes)}, {age}"
        fate = "removed" if part.removed else "it may still be sent; left alone"
        click.echo(f"{part.place}: not sent whole ({what}): {fate}")


def _show_repair(report: "RepairReport") -> None:
    from rellm_cache.store.format import lost_path

    if not report.problems:
        click.echo(f"{display_path(report.store)}: whole, nothing to do")
        return
    for problem in report.problems:
        click.echo(f"  {problem}")
    click.echo(
        f"{display_path(report.store)}: {counted(report.rewritten, 'part')} rewritten with "
        f"{counted(report.kept, 'whole utterance')}, {report.removed} removed"
    )
    for problem in report.unrepaired:
        click.echo(f"  not repaired: {problem}")
    if report.nameless:
        one, many = "part does not tell whose frames it", "parts do not tell whose frames they"
        click.echo(f"  {counted(report.nameless, one, many)} held")
    if report.lost:
        click.echo(f"  {counted(len(report.lost), 'clip')} lost: {show_ids(report.lost)}")
        click.echo(f"  all are listed in {display_path(lost_path(report.store))}")
    if report.lost or report.nameless:
        click.echo("  `rellm extract` with their manifest makes them again")
        click.echo("  (`rellm cache quantize` with the float16 store, where this is int8)")


@click.command()
@root_argument
@click.option(
    "--keep",
    "manifests",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="Also drop clips that this manifest file or folder does not name. Repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Say what would go, change nothing.")
@json_option
def prune(root: Path, manifests: tuple[Path, ...], dry_run: bool, as_json: bool) -> None:
    """Drop rows under ROOT that no reader sees: older versions of clips encoded again."""
    from rellm_cache.cache_admin.maintenance import prune_cache

    reports = prune_cache(root, manifests, dry_run)
    if as_json:
        stores = [vars(r) | {"store": r.store.name} for r in reports]
        click.echo(json.dumps({"root": display_path(root), "dry_run": dry_run, "stores": stores}))
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
@root_argument
@click.option(
    "--part-size",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    metavar="MIB",
    help="Frames of a merged part at most.",
)
@json_option
def compact(root: Path, part_size: int, as_json: bool) -> None:
    """Merge small neighbouring parts of every store under ROOT."""
    from rellm_cache.cache_admin.maintenance import compact_cache

    reports = compact_cache(root, part_size << 20)
    if as_json:
        stores = [vars(r) | {"store": r.store.name} for r in reports]
        click.echo(json.dumps({"root": display_path(root), "stores": stores}))
        return
    for report in reports:
        before = counted(report.parts_before, "part")
        click.echo(f"{display_path(report.store)}: {before}, now {report.parts_after}")
