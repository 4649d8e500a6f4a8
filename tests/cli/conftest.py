"""Fixture that runs the rellm command as a shell does."""

from collections.abc import Callable

import pytest

from rellm_cache.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """`code, out, err = run("cache", "info", path)`: rellm as the shell would run it."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return call
