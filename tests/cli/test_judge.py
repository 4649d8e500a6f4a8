"""rellm judge as the shell would run it; evaluation/test_judge.py tests its scores."""

from collections.abc import Callable
from pathlib import Path


def test_a_quantization_without_its_model_is_refused(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, _, err = run("judge", tmp_path, tmp_path, "--quantization", "int8")
    assert code == 2
    assert "--quantization applies to the model given by --judge" in err


def test_a_model_and_a_server_exclude_each_other(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    words = ("judge", tmp_path, tmp_path, "--judge", "m", "--endpoint", "http://127.0.0.1:9/v1")
    code, _, err = run(*words)
    assert code == 2
    assert "--endpoint lets a server judge; leave out --judge" in err
    code, _, err = run("judge", tmp_path, tmp_path, "--endpoint-model", "m")
    assert code == 1
    assert "give its --endpoint URL too" in err
