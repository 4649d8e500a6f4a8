"""Publication: a run folder with licences, and nothing of the corpus."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
import torch

from rellm_cache.config.recipes import load_recipe
from rellm_cache.config.schema import LoraConfig, Recipe
from rellm_cache.corpus.manifest import read_manifests
from rellm_cache.errors import ConfigError, RellmError, RunError
from rellm_cache.evaluation.run import EvaluationOptions, evaluate
from rellm_cache.extraction.run import extract
from rellm_cache.inference.generate import generate
from rellm_cache.runs.card import read_card
from rellm_cache.runs.publish import make_public, publish
from rellm_cache.runs.upload import upload
from rellm_cache.runs.weights import load_run
from rellm_cache.training.run import train

EMOTION = "encoders.emotion.model=lab/emotion"


@pytest.fixture(autouse=True)
def models(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whisper_folder: Path,
    emotion_folder: Path,
    llm_folder: Path,
) -> Path:
    """A models root as a user has it: an owner's folder with all three models."""
    root = tmp_path / "models"
    (root / "lab").mkdir(parents=True)
    for name, folder in (
        ("whisper", whisper_folder), ("emotion", emotion_folder), ("chat", llm_folder),
    ):  # fmt: skip
        (root / "lab" / name).symlink_to(folder)
    monkeypatch.setenv("RELLM_MODELS", str(root))
    return root


@pytest.fixture
def quick(quick: Recipe, models: Path) -> Recipe:
    """With LoRA; one model by hub id, one under the models root, one elsewhere."""
    assert quick.llm is not None
    speech = replace(quick.encoders["speech"], model=str(models / "lab/whisper"))
    return replace(
        quick,
        llm=replace(quick.llm, model="lab/chat", lora=LoraConfig(rank=2)),
        encoders={**quick.encoders, "speech": speech},
        training=replace(quick.training, epochs=1),
    )


@pytest.fixture
def lora_run(corpus: Path, cache: Path, quick: Recipe, tmp_path: Path) -> Path:
    """A scored run."""
    train(quick, corpus, cache, tmp_path / "run")
    evaluate(tmp_path / "run", corpus / "test.jsonl", cache, EvaluationOptions(1))
    return tmp_path / "run"


@pytest.fixture
def heads_run(corpus: Path, speech_recipe: Recipe, models: Path, tmp_path: Path) -> Path:
    """A run without LLM that nobody scored."""
    speech = replace(speech_recipe.encoders["speech"], model="lab/whisper")
    recipe = replace(speech_recipe, encoders={**speech_recipe.encoders, "speech": speech})
    extract(corpus, recipe, tmp_path / "cache")
    train(recipe, corpus, tmp_path / "cache", tmp_path / "heads")
    return tmp_path / "heads"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_published_folder_is_the_run_and_nothing_of_the_corpus(
    lora_run: Path, corpus: Path, tmp_path: Path
) -> None:
    cache, test, out = tmp_path / "cache", corpus / "test.jsonl", tmp_path / "hub" / "ready"
    with pytest.raises(ConfigError, match=r"encoders\.emotion\.model = '.*found a local folder"):
        publish(lora_run, out)
    assert not out.exists()
    found = publish(lora_run, out, [EMOTION])
    assert set(contents(out)) == {*found.files, "SHA256SUMS"}
    assert found.licence == "cc-by-nc-sa-4.0"
    assert found.non_commercial == ["lab/emotion"]
    assert found.unknown == ["lab/chat", "another corpus"]

    sums = dict(
        reversed(line.split("  ")) for line in (out / "SHA256SUMS").read_text().splitlines()
    )
    assert sums == found.files
    for name, data in contents(out).items():
        assert name == "SHA256SUMS" or sums[name] == hashlib.sha256(data).hexdigest()
    everything = b"\n".join(contents(out).values())
    assert str(corpus).encode() not in everything
    for utterance in read_manifests(corpus):
        assert utterance.response
        for private in (utterance.text, utterance.id, utterance.response, utterance.audio):
            assert private.encode() not in everything
    assert str(tmp_path).encode() not in everything
    assert b"tiny-" not in everything

    before = contents(out)
    assert publish(lora_run, out, [EMOTION]).unchanged
    again = publish(lora_run, tmp_path / "again", [EMOTION])
    assert not again.unchanged
    assert contents(tmp_path / "again") == before == contents(out)

    _, published = load_run(out, torch.device("cpu"))
    _, own = load_run(lora_run, torch.device("cpu"))
    weights = dict(own.named_parameters())
    assert any(name.startswith("lora.") for name in weights)
    assert all(torch.equal(p, weights[n]) for n, p in published.named_parameters())
    expected = generate(lora_run, test, tmp_path / "a.jsonl", cache)
    assert generate(out, test, tmp_path / "b.jsonl", cache) == expected
    clip = corpus.parent / "audio" / "09.wav"
    (live,) = generate(out, clip, tmp_path / "c.jsonl", tmp_path / "no-cache")
    assert live.response == expected[0].response
    scores = json.loads((lora_run / "scores.json").read_text())
    with pytest.raises(RunError, match=r"published folder, and SHA256SUMS .* with --out"):
        evaluate(out, test, cache, EvaluationOptions(1))
    elsewhere = tmp_path / "scores"
    found_again = evaluate(out, test, cache, EvaluationOptions(1), out=elsewhere).to_json()
    assert {**json.loads(json.dumps(found_again)), "manifest": str(test)} == scores
    assert json.loads((elsewhere / "scores.json").read_text()) == scores
    assert {p.name for p in elsewhere.iterdir()} == {
        "results.sha256",
        "scores.json",
        "predictions.csv",
        "evaluated.jsonl",
        "report.html",
    }
    assert contents(out) == before
    (out / "report.html").write_text("mine")
    with pytest.raises(RunError, match=r"holds report\.html, which is not part"):
        publish(lora_run, out, [EMOTION])


def test_a_run_without_scores_needs_an_option(
    heads_run: Path, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "hub"
    assert "None: `rellm evaluate`" in (heads_run / "README.md").read_text("utf-8")
    with pytest.raises(RunError, match=r"scores\.json: is missing.*--without-scores"):
        publish(heads_run, out)
    found = publish(heads_run, out, without_scores=True)
    assert found.notes == ["published without scores"]
    assert "scores.json" not in found.files
    evaluate(heads_run, corpus / "test.jsonl", tmp_path / "cache", EvaluationOptions(0))
    page = (heads_run / "README.md").read_text("utf-8")
    assert "Measured by `rellm evaluate` on 2 utterances" in page
    assert "splits: test 2" in page
    found = publish(heads_run, out)  # in the place of the earlier one
    assert not found.unchanged
    assert (out / "README.md").read_text("utf-8") == page


def test_only_finished_runs_are_published(heads_run: Path, quick: Recipe, tmp_path: Path) -> None:
    card = read_card(heads_run)
    assert quick.llm is not None
    llm = replace(quick.llm, model="Qwen-7B-Chat-Qwen2")
    assert make_public(card, replace(card.recipe, llm=llm)).recipe.llm == llm
    with pytest.raises(ConfigError, match=r"llm\.model = '/data/chat'"):
        make_public(card, replace(card.recipe, llm=replace(llm, model="/data/chat")))
    with pytest.raises(RunError, match="is the run itself"):
        publish(heads_run, heads_run, without_scores=True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").touch()
    with pytest.raises(RunError, match=r"holds thesis\.tex"):
        publish(heads_run, other, without_scores=True)
    with pytest.raises(
        ConfigError,
        match=r"'seed=2': the run is trained; only the places of models can change now: enc",
    ):
        publish(heads_run, tmp_path / "hub", ["seed=2"], without_scores=True)
    (heads_run / "training.json").unlink()
    with pytest.raises(RunError, match=r"training\.json: cannot be read"):
        publish(heads_run, tmp_path / "hub", without_scores=True)
    (heads_run / "adapter_config.json").unlink()
    with pytest.raises(RunError, match="not the folder of a finished run"):
        publish(heads_run, tmp_path / "hub", without_scores=True)
    assert not (tmp_path / "hub").exists()


def test_the_run_that_training_started_from_is_left_out(
    heads_run: Path, corpus: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(str(heads_run / "recipe.toml"), [f"training.init_from={heads_run}"])
    train(recipe, corpus, tmp_path / "cache", tmp_path / "second")
    digest = hashlib.sha256((heads_run / "adapter.safetensors").read_bytes()).hexdigest()
    found = publish(tmp_path / "second", tmp_path / "hub", without_scores=True)
    assert found.notes[1].startswith("training.init_from = ")
    assert load_recipe(str(tmp_path / "hub/recipe.toml")).training.init_from == ""
    assert f"Training started from other trained weights (SHA-256 `{digest[:16]}`)" in (
        tmp_path / "hub/README.md"
    ).read_text("utf-8")


class Hub(BaseHTTPRequestHandler):
    """The endpoints of a model hub that an upload of small files asks for."""

    seen: ClassVar[list[tuple[str, dict[str, Any]]]] = []
    commits: ClassVar[list[list[dict[str, Any]]]] = []

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != "Bearer hf_right":
            self.answer(401, {"error": "Invalid username or password."})
        elif self.path == "/api/repos/create":
            self.seen.append((self.path, json.loads(data)))
            self.answer(200, {"url": f"http://{self.headers['Host']}/me/adapter"})
        elif self.path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif self.path.endswith("/preupload/main"):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for f in json.loads(data)["files"]
            ]
            self.answer(200, {"files": files})
        elif self.path.endswith("/commit/main"):
            self.commits.append([json.loads(line) for line in data.splitlines()])
            url = f"http://{self.headers['Host']}/me/adapter/commit/1"
            self.answer(200, {"commitUrl": url, "commitOid": "1", "success": True})
        else:
            self.answer(404, {"error": self.path})

    def do_GET(self) -> None:
        self.answer(401 if self.headers["Authorization"] != "Bearer hf_right" else 404, {})

    def answer(self, code: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[str]:
    """A model hub on loopback; its address."""
    Hub.seen.clear()
    Hub.commits.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


UPLOAD = """
import sys
from pathlib import Path
from rellm_cache.errors import RellmError
from rellm_cache.runs.upload import upload
try:
    print(upload(Path(sys.argv[1]), sys.argv[2].split(), "me/adapter", private=True))
except RellmError as error:
    print(error)
"""


def send(hub: str, token: str, folder: Path, files: str) -> str:
    """What an upload says, by the hub's own client in a process that may use the network."""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": hub,
        "HF_TOKEN": token,
        "HF_HOME": str(folder.parent / "hf-home"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    command = [sys.executable, "-c", UPLOAD, str(folder), files]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_an_upload_sends_these_files_and_no_others(hub: str, tmp_path: Path) -> None:
    folder = tmp_path / "ready"
    folder.mkdir()
    for name in ("README.md", "adapter.safetensors", "report.html"):
        (folder / name).write_text(name)
    said = send(hub, "hf_wrong", folder, "README.md adapter.safetensors")
    assert "me/adapter: could not be uploaded" in said
    assert "hf auth login" in said
    assert Hub.commits == []
    said = send(hub, "hf_right", folder, "README.md adapter.safetensors")
    assert said.strip().endswith("/me/adapter")
    ((_, created),) = Hub.seen
    assert (created["name"], created["organization"]) == ("adapter", "me")
    assert created["visibility"] == "private"
    (commit,) = Hub.commits
    sent = {line["value"]["path"] for line in commit if line["key"] == "file"}
    assert sent == {"README.md", "adapter.safetensors"}


def test_no_network_and_wrong_names_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--upload adapter: expected OWNER/NAME"):
        upload(tmp_path, [], "adapter")
    with pytest.raises(RellmError, match=r"could not be uploaded \(OfflineModeIsEnabled"):
        upload(tmp_path, [], "me/adapter")
