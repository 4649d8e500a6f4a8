"""Scorer training: what it learns, complete folders, and resuming after a kill."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rellm_cache.empathy.epitome import read_epitome, split_by_post
from rellm_cache.empathy.exchanges import encode_exchanges
from rellm_cache.empathy.scorer_folder import ScorerCard, load_card, load_empathy
from rellm_cache.empathy.scoring import level_logits, score_exchanges
from rellm_cache.empathy.settings import EmpathySettings
from rellm_cache.empathy.training import train_empathy
from rellm_cache.errors import ManifestError, RunError
from rellm_cache.metrics.calibration import probabilities_of
from rellm_cache.utils.checksums import record

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def settings(text_encoder_folder: Path) -> EmpathySettings:
    return EmpathySettings(
        encoder=str(text_encoder_folder),
        tokens=8,
        long_tokens=32,
        training_tokens=32,
        trained_layers=1,
        pooling="statistics",
        word_weight=0.3,
        together=True,
        learning_rate=5e-3,
        head_learning_rate=1e-2,
        batch_size=4,
        epochs=12,
    )


@pytest.fixture(scope="module")
def trained(
    settings: EmpathySettings, epitome_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("trained") / "scorer"
    train_empathy(epitome_folder, out, settings)
    return out


def test_it_learns_levels_from_words(trained: Path) -> None:
    card = load_card(trained)
    assert card.counts["train"] + card.counts["validation"] + card.counts["test"] == 72
    for part in ("test", "test_long"):
        assert card.scores[part]["ER"]["macro_f1"] > 0.9
        assert card.scores[part]["EX"]["f1"]["2"] > 0.9
        assert card.scores[part]["IP"]["macro_f1"] < 0.6  # its levels are random
    er = card.scores["test"]["ER"]
    assert sum(map(sum, er["confusion"])) == er["count"] == card.counts["test"]
    assert 0 <= er["calibration_error"] <= 1


def test_members_have_different_seeds_and_their_logits_are_averaged(
    settings: EmpathySettings, epitome_folder: Path, tmp_path: Path
) -> None:
    pair = replace(settings, members=2, word_weight=0.0, epochs=2)
    train_empathy(epitome_folder, tmp_path / "pair", pair)
    train_empathy(epitome_folder, tmp_path / "one", replace(pair, members=1))
    first, second = (load_file(tmp_path / "pair" / f"ER-IP-EX{n}.safetensors") for n in ("", ".2"))
    alone = load_file(tmp_path / "one" / "ER-IP-EX.safetensors")
    assert all(torch.equal(first[name], alone[name]) for name in alone)
    assert not any(torch.equal(first[name], second[name]) for name in first if "query" in name)
    model = load_empathy(tmp_path / "pair", CPU)
    test = split_by_post(read_epitome(epitome_folder), 0).test
    encoded = list(encode_exchanges(test, model.encoder, pair, pair.tokens))
    (members,) = model.ensembles
    each = [level_logits([member], encoded, CPU) for member in members]
    both = level_logits(members, encoded, CPU)
    for name, logits in both.items():
        np.testing.assert_allclose(logits, (each[0][name] + each[1][name]) / 2, atol=1e-6)
    found = [score.probabilities["ER"] for score in score_exchanges(model, test)]
    expected = probabilities_of(both["ER"], model.card.temperatures["ER"])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_moved_folder_gives_the_test_scores(
    trained: Path, epitome_folder: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(trained, tmp_path / "moved")
    assert sorted(p.name for p in moved.iterdir()) == [
        "ER-IP-EX.safetensors", "empathy.json", "encoder", "results.sha256", "training.json",
        "words.json", "words.safetensors",
    ]  # fmt: skip
    model = load_empathy(moved, CPU)
    test = split_by_post(read_epitome(epitome_folder), 0).test
    scores = list(score_exchanges(model, test))
    for part, levels in (
        ("test", [s.levels["EX"] for s in scores]),
        ("test_long", [s.long_levels["EX"] for s in scores]),
    ):
        right = sum(a == e.levels["EX"] for a, e in zip(levels, test, strict=True))
        assert right / len(test) == pytest.approx(model.card.scores[part]["EX"]["accuracy"])


def test_frozen_weights_are_unchanged_and_not_saved_again(
    trained: Path, settings: EmpathySettings
) -> None:
    source = Path(settings.encoder)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        assert (trained / "encoder" / name).read_bytes() == (source / name).read_bytes()
    kept = load_file(trained / "ER-IP-EX.safetensors")
    layers = {name.split(".")[3] for name in kept if name.startswith("encoder.encoder.layer")}
    assert layers == {"0"}
    assert not any("embeddings" in name for name in kept)


def test_resuming_after_a_kill_gives_the_same_weights(
    trained: Path,
    settings: EmpathySettings,
    epitome_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    per_epoch = -(-load_card(trained).counts["train"] // settings.batch_size)
    ordinary, steps = torch.optim.AdamW.step, 0

    def step_or_die(optimizer: torch.optim.AdamW) -> None:
        nonlocal steps
        steps += 1
        if steps == 3 * per_epoch + 2:  # in the fourth epoch
            raise KeyboardInterrupt
        ordinary(optimizer)

    monkeypatch.setattr(torch.optim.AdamW, "step", step_or_die)
    out = tmp_path / "scorer"
    with pytest.raises(KeyboardInterrupt):
        train_empathy(epitome_folder, out, settings)
    with pytest.raises(RunError, match="not the folder of a trained empathy scorer"):
        load_card(out)
    card = train_empathy(epitome_folder, out, settings)
    assert steps == 12 * per_epoch + 2  # the fourth epoch starts again
    assert card == load_card(trained)
    first, second = (load_file(f / "ER-IP-EX.safetensors") for f in (trained, out))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert train_empathy(epitome_folder, out, settings) == card  # nothing left to do
    assert steps == 12 * per_epoch + 2


def test_one_scorer_per_mechanism_as_published(
    settings: EmpathySettings, epitome_folder: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("emotional-reactions", "explorations"):
        shutil.copy(epitome_folder / f"{name}-reddit.csv", data)
    apart = replace(
        settings, together=False, trained_layers=-1, pooling="first", word_weight=0.0, epochs=1
    )
    card = train_empathy(data, tmp_path / "out", apart)
    assert card.groups == (("ER",), ("EX",))
    assert (tmp_path / "out" / "EX.safetensors").is_file()
    model = load_empathy(tmp_path / "out", CPU)
    (score,) = score_exchanges(model, read_epitome(data)[:1])
    assert score.levels.keys() == {"ER", "EX"}


def test_a_folder_with_other_settings_is_refused(
    trained: Path, settings: EmpathySettings, epitome_folder: Path
) -> None:
    with pytest.raises(RunError, match="scorer with other settings; choose another --out"):
        train_empathy(epitome_folder, trained, replace(settings, seed=1))


def test_too_few_posts(settings: EmpathySettings, tmp_path: Path) -> None:
    (tmp_path / "explorations.csv").write_text(
        "sp_id,rp_id,seeker_post,response_post,level,rationales\ns,r,a,b,0,\n"
    )
    with pytest.raises(ManifestError, match="too few posts"):
        train_empathy(tmp_path, tmp_path / "out", settings)


def test_damaged_folders_are_refused(trained: Path, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        return shutil.copytree(trained, tmp_path / name)

    cut = copy("cut")
    weights = cut / "ER-IP-EX.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(RunError, match=r"ER-IP-EX\.safetensors: found other bytes than"):
        load_empathy(cut, CPU)
    (cut / "results.sha256").unlink()  # as in a folder of an older version
    with pytest.raises(RunError, match=r"ER-IP-EX\.safetensors: damaged, or no file of tensors"):
        load_empathy(cut, CPU)
    odd = load_file(trained / "ER-IP-EX.safetensors")
    odd[min(odd)].view(-1)[0] = torch.nan
    save_file(odd, weights)
    with pytest.raises(RunError, match="found NaN or infinite values"):
        load_empathy(cut, CPU)
    other = copy("other")
    tensors = load_file(other / "encoder" / "model.safetensors")
    tensors["embeddings.LayerNorm.bias"] += 1
    save_file(tensors, other / "encoder" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match="other weights than this scorer was trained with"):
        load_empathy(other, CPU)
    later = copy("later")
    card = json.loads((later / "empathy.json").read_text())
    (later / "empathy.json").write_text(json.dumps(card | {"format": 9}))
    record(later, ["empathy.json"])
    with pytest.raises(RunError, match="format 9, expected 1"):
        load_empathy(later, CPU)
    assert isinstance(load_card(trained), ScorerCard)
    (copy("bare") / "encoder" / "tokenizer.json").unlink()
    with pytest.raises(RunError, match=r"tokenizer\.json is missing"):
        load_empathy(tmp_path / "bare", CPU)


def test_a_plan_that_cannot_be_read_is_named(
    settings: EmpathySettings, epitome_folder: Path, tmp_path: Path
) -> None:
    for content in ("", "[]"):
        (tmp_path / "training.json").write_text(content)
        with pytest.raises(RunError, match=r"training\.json: .*remove the folder"):
            train_empathy(epitome_folder, tmp_path, settings)
