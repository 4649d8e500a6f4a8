"""Embeddings of a manifest: those of `Run.embed`, in the manifest's order, without the LLM."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest

import rellm_cache as rellm
from rellm_cache.cli import main
from rellm_cache.config.schema import LLMConfig, LoraConfig, Recipe, TextConfig
from rellm_cache.corpus.manifest import read_manifests
from rellm_cache.errors import ConfigError, RellmError, StoreError
from rellm_cache.inference import embed as embed_module
from rellm_cache.runs import weights
from rellm_cache.training.run import train


@pytest.fixture
def run(corpus: Path, cache: Path, quick: Recipe, tmp_path: Path) -> Path:
    assert isinstance(quick.llm, LLMConfig)
    recipe = replace(
        quick,
        llm=replace(quick.llm, lora=LoraConfig(rank=2)),
        training=replace(quick.training, epochs=1),
    )
    train(recipe, corpus, cache, tmp_path / "run")
    return tmp_path / "run"


def test_a_file_has_what_embed_gives(
    run: Path, corpus: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    utterances = read_manifests(corpus)
    expected = rellm.load_run(run).embed([u.id for u in utterances])
    monkeypatch.setattr(embed_module, "CHUNK", 4)  # three chunks
    monkeypatch.setattr(weights, "load_llm", None)  # no LLM is loaded
    with pytest.raises(SystemExit) as ended:
        main(["embed", str(run), str(corpus), "--out", str(tmp_path / "all.parquet"), "--states"])
    assert ended.value.code == 0
    table = pandas.read_parquet(tmp_path / "all.parquet")
    assert [*table["id"]] == [u.id for u in utterances]
    assert [*table["split"]] == [u.split for u in utterances]
    for embedding, pooled, states in zip(
        expected, table["pooled"], map(np.stack, table["states"]), strict=True
    ):
        assert (pooled.dtype, states.dtype) == (np.float32, np.float32)
        np.testing.assert_allclose(pooled, embedding.pooled, atol=1e-5)
        np.testing.assert_allclose(states, embedding.states, atol=1e-5)
    file = corpus / "test.jsonl"
    assert rellm.embed(run, file, cache, out=tmp_path / "npy", format="npy") == 2
    assert sorted(p.name for p in (tmp_path / "npy").iterdir()) == [
        "pooled.npy", "rellm.json", "utterances.jsonl",
    ]  # fmt: skip
    np.testing.assert_allclose(
        np.load(tmp_path / "npy/pooled.npy"),
        [e.pooled for e, u in zip(expected, utterances, strict=True) if u.split == "test"],
        atol=1e-5,
    )


def test_what_cannot_be_embedded_is_named(
    run: Path, corpus: Path, quick: Recipe, tmp_path: Path
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"id": "gone", "audio": "gone.wav"}\n')
    with pytest.raises(StoreError, match=r"absent .*'gone'; add them with `rellm extract .*other"):
        rellm.embed(run, other, out=tmp_path / "x", format="npy")
    (tmp_path / "taken").touch()
    with pytest.raises(RellmError, match="taken: exists already"):
        rellm.embed(run, corpus, out=tmp_path / "taken", format="npy")
    text = replace(quick, text=TextConfig(), encoders=quick.encoders)
    train(text, corpus, tmp_path / "cache", tmp_path / "text")
    with pytest.raises(ConfigError, match="reads text: it has no adapter to load"):
        rellm.embed(tmp_path / "text", corpus, tmp_path / "cache", out=tmp_path / "x", format="npy")
