"""Examples in docstrings of the public API run, in a folder like that of docs/python.md.

The models are tiny and random; the folder has the names that the examples use.
"""

import doctest
import inspect
import json
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
import soundfile

import rellm_cache as rellm
from rellm_cache.config.plugins import ADAPTERS, CORPORA, ENCODERS, LOSSES

# What examples of others show: `on_step(self, step: StepReport)` is in that of `Callback`.
SHOWN = {
    "STOP": "Callback",
    "StepReport": "Callback",
    "EpochReport": "Callback",
    "TrainReport": "train",
    "Utterance": "prepare",
    "Corpus": "prepare",
    "FrameEncoder": "register_encoder",
    "Encoding": "register_encoder",
    "Adapter": "register_adapter",
    "Outputs": "register_loss",
    "LossContext": "register_loss",
}


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, whisper_folder: Path, llm_folder: Path
) -> Iterator[Path]:
    """`manifests/demo`, `cache`, `runs/heads`, `runs/small` and `speech.wav`."""
    top = tmp_path_factory.mktemp("examples")
    shutil.copytree(whisper_folder, top / "models/openai/whisper-tiny.en")
    shutil.copytree(llm_folder, top / "models/HuggingFaceTB/SmolLM2-135M-Instruct")
    clips = Path(str(resources.files("rellm_cache.demo"))) / "clips"
    rows = [json.loads(line) for line in (clips / "manifest.jsonl").read_text().splitlines()]
    rows = [r for r in rows if r["id"].endswith("-1") and r["speaker"] in ("mia", "ivy", "sam")]
    (top / "manifests/demo").mkdir(parents=True)
    for split in ("train", "validation", "test"):
        own = [{**r, "audio": f"{clips / r['audio']}"} for r in rows if r["split"] == split]
        text = "".join(json.dumps({**r, "response": "I see."}) + "\n" for r in own)
        (top / "manifests/demo" / f"{split}.jsonl").write_text(text)
    samples, rate = soundfile.read(clips / "sam-sad-1.ogg")
    soundfile.write(top / "speech.wav", samples, rate)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(top)
        patch.setenv("RELLM_MODELS", str(top / "models"))
        rellm.extract("heads", "manifests/demo")
        changes = {"training.epochs": 1, "prompts.answer_tokens": 4}
        rellm.train("heads", "manifests/demo", out="runs/heads", set=changes)
        changes["llm.quantization"] = "none"
        rellm.train("small", "manifests/demo", out="runs/small", set=changes)
        yield top


def examples(name: str) -> list[doctest.DocTest]:
    return [e for e in doctest.DocTestFinder().find(getattr(rellm, name), name) if e.examples]


@pytest.mark.parametrize("name", [n for n in rellm.__all__ if n not in SHOWN])
def test_example_runs(name: str, folder: Path) -> None:
    found = examples(name)
    assert found, f"rellm.{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    said: list[str] = []
    with ENCODERS.restored(), ADAPTERS.restored(), LOSSES.restored(), CORPORA.restored():
        for example in found:
            runner.run(example, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)


@pytest.mark.parametrize(("name", "other"), SHOWN.items())
def test_example_of_another_shows_it(name: str, other: str) -> None:
    assert name in (inspect.getdoc(getattr(rellm, other)) or "")
