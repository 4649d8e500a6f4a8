"""Fixtures: corpus with cached frames and responses, recipe of short prompts, store content."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kills import KilledAfter, kill_first, process_id
from openai_server import Server, running_server

from rellm_cache.config.schema import PromptsConfig, Recipe
from rellm_cache.corpus.manifest import manifest_files, read_manifest, responses_path
from rellm_cache.empathy.settings import EmpathySettings
from rellm_cache.empathy.training import train_empathy
from rellm_cache.extraction.run import extract
from rellm_cache.store.reader import FeatureStore
from rellm_cache.utils.resumable_table import Journal
from rellm_cache.workers.messages import Result
from rellm_cache.workers.processes import ProcessPool

Checksums = Callable[[Path], dict[str, int]]


@pytest.fixture
def quick(recipe: Recipe) -> Recipe:
    """The tiny recipe with short prompts: the test tokenizer has a token for every byte."""
    prompts = PromptsConfig(
        empathetic_system="Be kind.",
        plain_system="Help.",
        alignment="Go on: {speech}",
        recognition="Tone? {speech}",
        answer_tokens=12,
    )
    return replace(recipe, prompts=prompts)


@pytest.fixture
def responses(corpus: Path) -> None:
    """A response to every utterance, beside its manifest."""
    for file in manifest_files(corpus):
        rows = [{"id": u.id, "response": f"So {u.emotion}!"} for u in read_manifest(file)]
        responses_path(file).write_text("".join(json.dumps(r) + "\n" for r in rows))


@pytest.fixture
def cache(corpus: Path, quick: Recipe, responses: None, tmp_path: Path) -> Path:
    """Both streams of the corpus; every utterance has a response beside its manifest."""
    extract(corpus, quick, tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def checksums() -> Checksums:
    """`checksums(store)`: id → checksum of its frames, compared with the frames themselves."""

    def read(path: Path) -> dict[str, int]:
        store = FeatureStore(path)
        found: dict[str, int] = {}
        for part in store.parts:
            found.update(zip(part.ids, part.frames_crc32c.tolist(), strict=True))
        for key in store.ids:
            store.verified_frames(key)
        return found

    return read


@pytest.fixture(scope="session")
def empathy_scorer(
    text_encoder_folder: Path, epitome_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A scorer of the miniature tables that reads 8 tokens, or 32."""
    out = tmp_path_factory.mktemp("scorers") / "scorer"
    settings = EmpathySettings(
        encoder=str(text_encoder_folder),
        tokens=8,
        long_tokens=32,
        training_tokens=16,
        trained_layers=0,
        together=True,
        head_learning_rate=0.01,
        epochs=2,
    )
    train_empathy(epitome_folder, out, settings)
    return out


@pytest.fixture
def killed_after(monkeypatch: pytest.MonkeyPatch) -> KilledAfter:
    """`with killed_after(2) as rows`: what runs within dies at its third row of a journal."""

    @contextmanager
    def kill(count: int) -> Iterator[list[dict[str, Any]]]:
        append = Journal.append
        rows: list[dict[str, Any]] = []

        def append_or_die(journal: Journal, row: dict[str, Any]) -> None:
            if len(rows) == count:
                raise KeyboardInterrupt
            rows.append(row)
            append(journal, row)

        with monkeypatch.context() as patch:
            patch.setattr(Journal, "append", append_or_die)
            with pytest.raises(KeyboardInterrupt):
                yield rows

    return kill


@pytest.fixture
def killed_worker(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first worker process that sends a result is killed; its process id."""
    return kill_first(monkeypatch, ProcessPool, process_id, Result)


@pytest.fixture
def server() -> Iterator[Server]:
    """A server in OpenAI's form."""
    with running_server() as server:
        yield server
