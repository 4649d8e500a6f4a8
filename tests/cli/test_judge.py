"""rellm judge as the shell would run it; evaluation/test_judge.py tests its scores."""

from collections.abc import Callable
from pathlib import Path


def test_a_quantization_without_its_model_is_refused(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, _, err = run("judge", tmp_path, tmp_path, "--quantization", "int8")
    assert code == 2
    assert "--quantization applies to the model given by --judge" in err
