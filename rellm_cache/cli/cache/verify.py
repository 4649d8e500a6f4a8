"""rellm cache verify: check every byte of the stores, and compare them with the audio."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rellm_cache.cli import options
from rellm_cache.cli.output import DAMAGED, SOME_FAILED, first_ids, print_json, store_rows
from rellm_cache.store.remote.mirror_paths import display_path
from rellm_cache.utils.console import counted

if TYPE_CHECKING:
    from rellm_cache.cache_admin.audit import AudioReport, RecomputeReport
    from rellm_cache.store.maintenance.verify import StoreCheck


@click.command()
@options.root_argument
@click.option(
    "--manifest",
    type=options.EXISTING,
    help="Manifest file or folder, for --audio and --recompute.",
)
@click.option(
    "--audio", is_flag=True, help="Compare the stored digests with the manifest's audio files."
)
@click.option(
    "--recompute",
    type=click.IntRange(min=0),
    default=0,
    show_default=False,
    metavar="N",
    help="Encode N random clips again and report the differences from the stored frames.",
)
@click.option("--seed", default=1, help="Of the random choice of clips.")
@options.as_json
def verify(
    root: Path, manifest: Path | None, audio: bool, recompute: int, seed: int, as_json: bool
) -> int:
    """Read every byte under ROOT and compare all checksums.

    Exit code 1: something is damaged; each problem is listed with its clips and the repair. Exit
    code 3: the cache is intact, but audio changed or cannot be read.
    """
    from rellm_cache.cache_admin.audit import compare_audio
    from rellm_cache.cache_admin.audit import recompute as encode_again
    from rellm_cache.cache_admin.maintenance import verify_cache

    if (audio or recompute) and manifest is None:
        raise click.UsageError("--audio and --recompute need --manifest")
    checks = verify_cache(root)
    intact = all(check.is_intact for check in checks)
    audio_reports: list[AudioReport] = []
    recomputed: list[RecomputeReport] = []
    if intact and manifest is not None:  # damaged frames say nothing about audio or encoder
        audio_reports = compare_audio(root, manifest) if audio else []
        recomputed = encode_again(root, manifest, recompute, seed) if recompute else []
    if as_json:
        print_json(_to_json(root, checks, audio_reports, recomputed))
    else:
        _show_checks(checks)
        if not intact:
            click.echo(f"Repair it with `rellm cache repair {display_path(root)}`.")
        _show_audio(audio_reports)
        _show_recomputed(recomputed)
    if not intact:
        return DAMAGED
    stale = any(report.changed or report.unreadable for report in audio_reports)
    return SOME_FAILED if stale else 0


def _show_checks(checks: "list[StoreCheck]") -> None:
    for check in checks:
        clips = sum(len(part.ids) for part in check.parts)
        if check.is_intact:
            parts = counted(len(check.parts), "part")
            click.echo(
                f"{display_path(check.path)}: intact, {counted(clips, 'utterance')} in {parts}"
            )
        else:
            click.echo(f"{display_path(check.path)}: damaged")
        for problem in check.problems:
            click.echo(f"  {problem}")
        for part in check.parts:
            for problem in part.problems:
                click.echo(f"  {part.path.name}: {problem}")
            if part.lost:
                click.echo(f"    {counted(len(part.lost), 'utterance')}: {first_ids(part.lost)}")
        for path in check.all_unknown:
            click.echo(f"  {path}: not part of the store; ignored")


def _show_audio(reports: "list[AudioReport]") -> None:
    for report in reports:
        click.echo(
            f"{display_path(report.store)}: audio of {counted(report.equal, 'clip')} unchanged, "
            f"{len(report.changed)} changed, {len(report.unreadable)} unreadable, "
            f"{len(report.absent)} not in the cache"
        )
        for name in report.changed:
            click.echo(f"  {name}: its audio changed; `rellm extract` encodes it again")
        for name, reason in report.unreadable.items():
            click.echo(f"  {name}: {reason}")


def _show_recomputed(reports: "list[RecomputeReport]") -> None:
    for report in reports:
        if report.reason:
            click.echo(f"{display_path(report.store)}: not compared: {report.reason}")
            continue
        click.echo(
            f"{display_path(report.store)}: {counted(len(report.clips), 'clip')} encoded again: "
            f"largest difference {report.largest:.3g}, mean {report.mean:.3g}, "
            f"lowest cosine {report.cosine:.6f}"
        )
        written = "; ".join(map(_machine, report.writers)) or "not recorded"
        click.echo(f"  written by {written}\n  this machine: {_machine(report.machine)}")
        for name, reason in report.skipped.items():
            click.echo(f"  {name}: {reason}")


def _machine(machine: dict[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in machine.items())


def _to_json(
    root: Path,
    checks: "list[StoreCheck]",
    audio: "list[AudioReport]",
    recomputed: "list[RecomputeReport]",
) -> dict[str, Any]:
    stores = [
        {
            "name": check.path.name,
            "whole": check.is_intact,
            "parts": len(check.parts),
            "utterances": sum(len(part.ids) for part in check.parts),
            "problems": check.problems,
            "unknown": [str(path) for path in check.all_unknown],
            "damaged_parts": [
                {"part": part.path.name, "problems": part.problems, "utterances": part.lost}
                for part in check.parts
                if part.problems
            ],
        }
        for check in checks
    ]
    return {
        "root": display_path(root),
        "whole": all(check.is_intact for check in checks),
        "repair": f"rellm cache repair {display_path(root)}",
        "stores": stores,
        "audio": store_rows(audio),
        "recomputed": store_rows(recomputed),
    }
