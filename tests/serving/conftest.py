"""Fixtures: two tiny trained runs, and a server of both in a thread."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from live_server import SETTINGS, LiveServer, TinyRuns, run_server, train_tiny_runs

from rellm_cache.serving.server import load_runs


@pytest.fixture(scope="session")
def tiny_runs(
    whisper_folder: Path,
    emotion_folder: Path,
    llm_folder: Path,
    writer_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> TinyRuns:
    """Two finished runs; a test that changes one copies it."""
    root = tmp_path_factory.mktemp("served")
    return train_tiny_runs(root, whisper_folder, emotion_folder, llm_folder, writer_folder)


@pytest.fixture(scope="session")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all servers of a process: Gradio takes it from the environment."""
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="session")
def server(tiny_runs: TinyRuns, uploads: Path) -> Iterator[LiveServer]:
    """Page and API of both tiny runs."""
    loaded = load_runs([tiny_runs.hears, tiny_runs.plain])
    yield from run_server(loaded, SETTINGS, uploads)
