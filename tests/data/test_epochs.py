"""Epoch loader: every clip once an epoch, reproducible orders, batches that stay valid."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import rellm_cache as rellm
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import read_split
from rellm_cache.data.sampler import bucketed_batches
from rellm_cache.errors import ConfigError, ManifestError, StoreError


def ids(loader: rellm.Loader) -> list[tuple[str, ...]]:
    return [batch.ids for batch in loader]


def test_each_loop_is_the_next_epoch_of_the_trainer(
    quick: Recipe, corpus: Path, cache: Path
) -> None:
    loader = rellm.loader(quick, corpus, cache, seed=4)
    utterances = read_split(corpus, "train")
    lengths = rellm.open_store(next(cache.glob("tiny-whisper-*"))).many([u.id for u in utterances])
    for epoch in range(3):
        assert loader.epoch == epoch
        plan = bucketed_batches([len(frames) for frames in lengths], 2, 4, epoch)
        assert ids(loader) == [tuple(utterances[i].id for i in batch) for batch in plan]
    assert len(loader) == 4
    loader.epoch = 1  # continue an interrupted loop
    again = rellm.loader(quick, corpus, cache, seed=4)
    ids(again)
    assert ids(loader) == ids(again)
    own = rellm.loader(dataclasses.replace(quick, seed=4), corpus, cache)
    assert ids(own) == ids(rellm.loader(quick, corpus, cache, seed=4))


def test_batches_hold_labels_and_frames_and_stay_valid(
    quick: Recipe, corpus: Path, cache: Path
) -> None:
    loader = rellm.loader(
        quick, corpus, str(cache), split="test", shuffle=False, set={"training.batch_size": 1}
    )
    first, second = list(loader)
    assert (first.ids, second.ids) == (("tones/09",), ("tones/10",))
    assert [loader.emotions[b.emotions[0]] for b in (first, second)] == ["surprise", "neutral"]
    np.testing.assert_allclose(first.vad[0], (0.9, 0.4, 0.8), rtol=1e-6)
    assert second.vad.isnan().all()
    assert loader.sizes == {"speech": 16, "emotion": 16}
    store = rellm.open_store(next(cache.glob("tiny-whisper-*")))
    for batch in (first, second):
        np.testing.assert_array_equal(batch.streams["speech"][0], store[batch.ids[0]])
        assert batch.targets == ((),)


def test_a_plain_loop_learns(quick: Recipe, corpus: Path, cache: Path) -> None:
    loader = rellm.loader(quick, corpus, cache, set={"training.batch_size": 7})
    torch.manual_seed(1)
    model = torch.nn.Linear(16, len(loader.emotions))
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    losses = []
    for _ in range(30):
        for batch in loader:
            sums = batch.streams["speech"].float().sum(1)
            logits = model(sums / batch.frame_lengths.unsqueeze(1))
            loss = torch.nn.functional.cross_entropy(logits, batch.emotions)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_a_loop_may_end_early(quick: Recipe, corpus: Path, cache: Path) -> None:
    loader = rellm.loader(quick, corpus, cache)
    first = next(iter(loader))
    assert len(ids(loader)) == 4
    assert loader.epoch == 2
    assert first.streams["speech"].any()


def test_what_is_missing_is_named(quick: Recipe, corpus: Path, cache: Path) -> None:
    with pytest.raises(ManifestError, match=r"dev\.jsonl: no such file"):
        rellm.loader(quick, corpus, cache, split="dev")
    with pytest.raises(ManifestError, match=r"train\.jsonl: found no folder"):
        rellm.loader(quick, corpus / "train.jsonl", cache)
    with pytest.raises(StoreError, match="cache folder does not exist"):
        rellm.loader(quick, corpus, cache / "no")
    with pytest.raises(ConfigError, match=r"device 'gpu': .*expected 'cpu' or 'cuda'"):
        rellm.loader(quick, corpus, cache, device="gpu")
