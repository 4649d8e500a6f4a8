"""A small world for hostile tests: models, corpus, cache and trained runs, and what they hold."""

import csv
import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models import save_emotion_model, save_epitome, save_llm, save_text_encoder, save_whisper
from tones import tiny_recipe, write_corpus

from rellm_cache.annotation.responses import respond
from rellm_cache.config.recipes import to_toml
from rellm_cache.config.schema import PromptsConfig
from rellm_cache.empathy.settings import EmpathySettings
from rellm_cache.empathy.training import train_empathy
from rellm_cache.extraction.run import extract
from rellm_cache.store.format import list_stores
from rellm_cache.store.reader import FeatureStore
from rellm_cache.training.run import train

# Values that differ from call to call, as times, paths, and what this call found to do.
VARYING = {
    "seconds", "waited", "machine", "cache", "manifest", "loaded", "run", "created", "out",
    "filled", "renewed",
}  # fmt: skip
# Files that only repeat or show others.
DERIVED = {"README.md", "report.html", "results.sha256", "SHA256SUMS", "state.pt", "zarr.json"}


@dataclass(frozen=True)
class World:
    """Paths of what a session has; commands are called in `root`.

    Attributes:
        commands: name → words of a command that writes; `{out}` is its output.
    """

    root: Path
    commands: Mapping[str, list[str]]


def make_world(root: Path) -> World:
    """Make models, a corpus, its cache, runs with and without an LLM, and an empathy scorer."""
    models = root / "models" / "lab"
    paths = {
        "whisper": save_whisper(models / "whisper"),
        "emotion": save_emotion_model(models / "emotion"),
        "chat": save_llm(models / "chat"),
    }
    bert = save_text_encoder(models / "bert")
    prompts = PromptsConfig(
        empathetic_system="Be kind.",
        plain_system="Help.",
        alignment="Go on: {speech}",
        recognition="Tone? {speech}",
        expected_response_tokens=6,
        answer_tokens=6,
    )
    small = replace(tiny_recipe(*paths.values()), prompts=prompts, name="small")
    heads = replace(
        small,
        name="heads",
        llm=None,
        adapter=replace(small.adapter, output_size=32),
        losses=replace(small.losses, response_lm=0.0, emotion_lm=0.0),
        training=replace(small.training, epochs=3, checkpoint_minutes=0.0),
    )
    for found in (small, heads):
        (root / f"{found.name}.toml").write_text(to_toml(found))
    manifest, cache = write_corpus(root), root / "cache"
    bare = shutil.copytree(manifest, root / "bare")
    respond(manifest, small)
    extract(manifest, small, cache)
    for recipe in (small, heads):
        train(recipe, manifest, cache, root / recipe.name)
    (root / "epitome").mkdir()
    tables = save_epitome(root / "epitome")
    settings = EmpathySettings(
        encoder=str(bert), tokens=8, long_tokens=32, training_tokens=16, trained_layers=0,
        together=True, epochs=2,
    )  # fmt: skip
    train_empathy(tables, root / "scorer", settings)
    (root / "replies.csv").write_text(
        "seeker_post,response_post\n" + "I lost it,So sorry\nIt is hard,Why?\n" * 20
    )
    names = {f"encoders.{name}.model": name for name in ("speech", "emotion")}
    hub = {"encoders.speech.model": "whisper", "encoders.emotion.model": "emotion"}
    assert names.keys() == hub.keys()
    ids = [w for key, name in {**hub, "llm.model": "chat"}.items()
           for w in ("--set", f"{key}=lab/{name}")]  # fmt: skip
    (store, *_) = list_stores(cache)
    of_small = ["--recipe", "small.toml", "--cache", "cache"]
    of_heads = ["--recipe", "heads.toml", "--cache", "cache"]
    commands = {
        "prepare": ["prepare", "folder", "manifest/train.jsonl", "--out", "{out}"],
        "extract": ["extract", "manifest", "--recipe", "small.toml", "--cache", "{out}"],
        "respond": ["respond", "{out}", "--recipe", "small.toml"],
        "annotate": ["annotate", "{out}", *of_small],
        "qa": ["qa", "{out}", "--recipe", "small.toml"],
        "train": ["train", *of_heads, "--manifest", "manifest", "--out", "{out}"],
        "train with an LLM": ["train", *of_small, "--manifest", "manifest", "--out", "{out}"],
        "sweep": ["sweep", *of_heads, "--manifest", "manifest", "--out", "{out}", "--seeds", "1-2",
                  "--evaluate", "manifest/test.jsonl"],
        "evaluate": ["evaluate", "small", "manifest/test.jsonl", "--out", "{out}"],
        "generate": ["generate", "small", "manifest", "--out", "{out}/a.jsonl"],
        "publish": ["publish", "small", "--out", "{out}", "--without-scores", *ids],
        "cache copy": ["cache", "copy", "cache", "{out}"],
        "cache export": ["cache", "export", f"cache/{store.name}", "{out}/x.h5"],
        "cache import": ["cache", "import", "x.h5", "--cache", "{out}"],
        "cache compact": ["cache", "compact", "{out}"],
        "cache repair": ["cache", "repair", "{out}"],
        "empathy train": ["empathy", "train", "epitome", "--out", "{out}", "--encoder", str(bert),
                          "--set", "epochs=3", "--set", "together=true", "--set", "tokens=8",
                          "--set", "long_tokens=32", "--set", "training_tokens=16",
                          "--set", "trained_layers=0"],
        "empathy score": ["empathy", "score", "scorer", "replies.csv", "--out", "{out}/r.csv"],
    }  # fmt: skip
    for name in ("respond", "annotate", "qa"):
        shutil.copytree(bare if name == "respond" else manifest, root / "start" / name)
    # Parts of three clips, so that there is something to compact; one of them is damaged.
    for index in range(0, 11, 3):
        lines = [line for file in sorted(bare.glob("t*.jsonl")) for line in file.open()][index:][:3]
        (root / "some").mkdir(exist_ok=True)
        (root / "some" / "train.jsonl").write_text(
            "".join(lines).replace('"split": "test"', '"split": "train"')
        )
        if lines:
            extract(root / "some", heads, root / "start" / "cache compact")
    shutil.copytree(root / "start" / "cache compact", root / "start" / "cache repair")
    frames = sorted((root / "start" / "cache repair").glob("*/part-*/frames/c/0/0"))[0]
    data = bytearray(frames.read_bytes())
    data[100] ^= 1
    frames.write_bytes(data)
    return World(root, commands)


def contents(path: Path) -> dict[str, str]:
    """Relative name → digest of what a file tells, without times; a store by its clips."""
    found: dict[str, str] = {}
    stores = {part.parent for part in path.rglob("part-*") if part.is_dir()}
    for store in stores:
        opened = FeatureStore(store)
        for part in opened.parts:
            for key, checksum in zip(part.ids, part.frames_crc32c.tolist(), strict=True):
                found[f"{store.relative_to(path)}:{key}"] = str(checksum)
    for file in sorted(path.rglob("*")):
        inside = any(store in file.parents for store in stores)
        hidden = any(p.startswith(".") for p in file.relative_to(path).parts)
        skipped = file.name in DERIVED or "tensorboard" in file.parts or file.suffix == ".h5"
        if file.is_file() and not (inside or hidden or skipped):
            found[str(file.relative_to(path))] = hashlib.sha256(_told(file)).hexdigest()
        elif file.suffix == ".h5":
            found[str(file.relative_to(path))] = _h5(file)
    return found


def _told(file: Path) -> bytes:
    if file.suffix == ".csv":
        with file.open(encoding="utf-8", newline="") as lines:
            return repr([_steady(row) for row in csv.DictReader(lines)]).encode()
    if file.suffix not in (".json", ".jsonl"):
        return file.read_bytes()
    text = file.read_text("utf-8")
    documents = [json.loads(text)] if file.suffix == ".json" else map(json.loads, text.splitlines())
    if file.name == "training.json":  # its digest of itself covers what varies
        documents = [
            {name: item for name, item in d.items() if name != "sha256"} for d in documents
        ]
    return json.dumps([_steady(document) for document in documents], sort_keys=True).encode()


def _steady(value: Any) -> Any:
    if isinstance(value, list):
        return [_steady(item) for item in value]
    if isinstance(value, dict):
        kept = {name: item for name, item in value.items() if name not in VARYING}
        return {name: _steady(item) for name, item in kept.items()}
    return value


def _h5(file: Path) -> str:
    import h5py

    found = hashlib.sha256()
    with h5py.File(file) as source:
        source.visititems(
            lambda name, item: found.update(name.encode() + item[()].tobytes())
            if isinstance(item, h5py.Dataset) else None
        )  # fmt: skip
    return found.hexdigest()
