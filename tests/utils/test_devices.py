"""Devices: number of threads for the work, and no CUDA if no GPU is used."""

import os
import subprocess
import sys

import pytest

THREADS = """
import sys, torch
from rellm_cache.utils.devices import use_threads
if len(sys.argv) > 1:
    torch.set_num_threads(int(sys.argv[1]))
before = torch.get_num_threads()
with use_threads("heads"):
    heads = torch.get_num_threads()
with use_threads("models"):
    models = torch.get_num_threads()
print(heads, models - before, torch.get_num_threads() - before)
"""


@pytest.mark.parametrize(
    ("environment", "arguments", "heads"),
    [({}, [], 1), ({"OMP_NUM_THREADS": "2"}, [], 2), ({}, ["3"], 3)],
    ids=["by the work", "OMP_NUM_THREADS wins", "a number that was set wins"],
)
def test_heads_take_one_thread(
    environment: dict[str, str], arguments: list[str], heads: int
) -> None:
    inherited = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", THREADS, *arguments]
    done = subprocess.run(
        command, env=inherited | environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(heads), "0", "0"]
