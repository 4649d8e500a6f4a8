"""Tiny trained runs, and a server of them in a thread, for the tests of `rellm serve`."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import uvicorn
from tones import tiny_recipe, write_corpus

from rellm_cache.config.schema import LossesConfig, PromptsConfig
from rellm_cache.config.specs import TranscriberSpec
from rellm_cache.extraction.run import extract
from rellm_cache.serving.served_run import ServedRun
from rellm_cache.serving.server import make_app
from rellm_cache.serving.settings import ServeSettings
from rellm_cache.serving.worker import Worker
from rellm_cache.training.run import train

SETTINGS = ServeSettings(port=0, max_upload_bytes=3_000_000, max_seconds=20.0, waiting=2)


@dataclass(frozen=True)
class TinyRuns:
    """Run folders: `hears` has a transcriber, `plain` has none, `mute` has no LLM either."""

    hears: Path
    plain: Path
    mute: Path
    manifest: Path
    cache: Path

    @property
    def clip(self) -> Path:
        """A clip of 1.7 s."""
        return self.manifest.parent / "audio" / "09.wav"


def train_tiny_runs(root: Path, whisper: Path, emotion: Path, llm: Path, writer: Path) -> TinyRuns:
    """Runs of one epoch in the folder `root`; emotions are learned, answers are not."""
    recipe = tiny_recipe(whisper, emotion, llm)
    recipe = replace(
        recipe,
        prompts=PromptsConfig(
            empathetic_system="Be kind.",
            plain_system="Help.",
            alignment="Go on: {speech}",
            recognition="Tone? {speech}",
            answer_tokens=8,
        ),
        losses=replace(recipe.losses, response_lm=0.0),
        training=replace(recipe.training, epochs=1, batch_size=8),
    )
    transcriber = TranscriberSpec(model=str(writer), max_tokens=12)
    manifest, cache = write_corpus(root), root / "cache"
    extract(manifest, recipe, cache)
    train(replace(recipe, transcriber=transcriber), manifest, cache, root / "hears")
    train(recipe, manifest, cache, root / "plain")
    adapter = replace(recipe.adapter, output_size=32)
    mute = replace(recipe, losses=LossesConfig(response_lm=0.0), llm=None, adapter=adapter)
    train(mute, manifest, cache, root / "mute")
    return TinyRuns(root / "hears", root / "plain", root / "mute", manifest, cache)


@dataclass(frozen=True)
class LiveServer:
    """A server that listens.

    Attributes:
        url: such as http://127.0.0.1:41234.
    """

    url: str
    runs: list[ServedRun]
    worker: Worker


def run_server(
    loaded: list[ServedRun], settings: ServeSettings, folder: Path
) -> Iterator[LiveServer]:
    """A server in a thread until the generator is closed."""
    worker = Worker(settings.waiting)
    app = make_app(loaded, worker, settings, folder)
    own = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=lambda: asyncio.run(own.serve([listener])), daemon=True)
    thread.start()
    while not own.started and thread.is_alive():
        time.sleep(0.01)
    yield LiveServer(f"http://127.0.0.1:{listener.getsockname()[1]}", loaded, worker)
    own.should_exit = True
    worker.close()
    thread.join()
    listener.close()
