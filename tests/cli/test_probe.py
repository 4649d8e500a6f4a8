"""rellm probe: the table on the screen, JSON and the files."""

import json
from pathlib import Path

from click.testing import CliRunner
from probes import RECIPE, write_known

from rellm_cache.cli.commands import rellm
from rellm_cache.config.recipes import to_toml


def test_probe_prints_a_table_and_writes_a_page(tmp_path: Path) -> None:
    manifest, cache = map(str, write_known(tmp_path))
    recipe = tmp_path / "known.toml"
    recipe.write_text(to_toml(RECIPE))
    targets = ["--targets", "speaker, valence", "--out", str(tmp_path / "probe")]
    command = ["probe", manifest, "--recipe", str(recipe), "--cache", cache, *targets]
    printed = CliRunner().invoke(rellm, command, catch_exceptions=False)
    assert printed.exit_code == 0
    (best,) = [line for line in printed.stdout.splitlines() if ") *" in line]
    assert "tiny-layer0" in best
    assert "chance" in printed.stdout
    assert "Not probed: valence: all clips have the same value, 0.5" in printed.stdout
    assert "Folds: speaker by clip" in printed.stdout
    assert (tmp_path / "probe/probe.html").is_file()
    result = CliRunner().invoke(rellm, [*command, "--json"], catch_exceptions=False)
    assert json.loads(result.stdout) == json.loads((tmp_path / "probe/probe.json").read_text())
