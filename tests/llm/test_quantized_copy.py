"""Quantized copies of an LLM give its values; one that is not what it says is made again."""

import dataclasses
import errno
import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rellm_cache.config.recipes import identity_toml
from rellm_cache.config.schema import LLMConfig, Recipe
from rellm_cache.llm import loading, quantized_copy
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm, save_quantized_copy
from rellm_cache.llm.quantized_copy import QuantizedCopy
from rellm_cache.utils.locks import hold_file

CPU = torch.device("cpu")


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of copies, also of tiny models."""
    monkeypatch.setattr(loading, "COPIED_BYTES", 0)
    monkeypatch.setenv("RELLM_MODELS", str(tmp_path / "models"))
    return tmp_path / "models" / "quantized"


@pytest.fixture
def folder(llm_folder: Path, tmp_path: Path) -> Path:
    """A chat model that a test may change."""
    return Path(shutil.copytree(llm_folder, tmp_path / "chat"))


def load(folder: Path, quantization: str = "nf4", **options: bool) -> FrozenLLM:
    return load_llm(LLMConfig(str(folder), quantization=quantization, **options), CPU)


def the_copy(copies: Path) -> Path:
    (found,) = (path for path in copies.iterdir() if path.is_dir())
    return found


def outputs(llm: FrozenLLM) -> torch.Tensor:
    embeddings = llm.embed(llm.chat.ids("Hello, you."))[None].requires_grad_()
    logits = llm.model(inputs_embeds=embeddings).logits
    logits.square().sum().backward()
    return torch.cat([logits.detach().flatten(), embeddings.grad.flatten()])  # type: ignore[union-attr]


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_copy_gives_the_bits_of_quantizing(
    copies: Path, llm_folder: Path, folder: Path, quantization: str, tied: bool
) -> None:
    model = AutoModelForCausalLM.from_pretrained(llm_folder, tie_word_embeddings=tied)
    model.save_pretrained(folder)
    plain = load(folder, quantization, quantized_copy=False)
    assert not copies.exists()
    first = load(folder, quantization)
    made = the_copy(copies)
    before = (made / "copy.json").stat().st_mtime_ns
    later = load(folder, quantization)
    assert (made / "copy.json").stat().st_mtime_ns == before
    states = [llm.model.state_dict() for llm in (plain, first, later)]
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(state[name], states[0][name]) for name in state)
        assert all(state[name].dtype == states[0][name].dtype for name in state)
    assert torch.equal(outputs(plain), outputs(later))
    assert later.model.name_or_path == str(folder)


def test_weights_in_bfloat16_stay_so_in_the_copy(
    copies: Path, llm_folder: Path, folder: Path
) -> None:
    sizes = []
    for dtype in (torch.float32, torch.bfloat16):
        AutoModelForCausalLM.from_pretrained(llm_folder, dtype=dtype).save_pretrained(folder)
        load(folder)
        sizes.append((the_copy(copies) / "model.safetensors").stat().st_size)
    assert sizes[1] < 0.8 * sizes[0]


def test_the_source_is_not_quantized_again(
    copies: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = LLMConfig(str(folder))
    assert save_quantized_copy(config, CPU) == the_copy(copies)
    monkeypatch.setattr(loading, "quantization_settings", lambda *_: pytest.fail("quantized"))
    load_llm(config, CPU)


def flip_a_byte(made: Path) -> None:
    path = made / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def cut(made: Path) -> None:
    path = made / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def remove(made: Path) -> None:
    (made / "model.safetensors").unlink()


def forget(made: Path) -> None:
    (made / "copy.json").write_text("{}")


def break_record(made: Path) -> None:
    (made / "copy.json").write_text("{")


def record_of_others(made: Path) -> None:
    record = json.loads((made / "copy.json").read_text())
    record["made_from"]["weights"] = {"model.safetensors": [1, 2, 3]}
    (made / "copy.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_byte, r"model\.safetensors: found other bytes than copy\.json says"),
        (cut, r"model\.safetensors: found other bytes than copy\.json says"),
        (remove, r"model\.safetensors: No such file"),
        (forget, r"copy\.json: _?Record: .*source"),
        (break_record, r"copy\.json: not JSON"),
        (record_of_others, r"this copy was made from other weights"),
    ],
)
def test_a_damaged_or_foreign_copy_is_named_and_made_again(
    copies: Path, folder: Path, capsys: pytest.CaptureFixture[str], damage: object, message: str
) -> None:
    expected = outputs(load(folder))
    damage(the_copy(copies))  # type: ignore[operator]
    capsys.readouterr()
    assert torch.equal(outputs(load(folder)), expected)
    said = capsys.readouterr().err
    assert str(copies) in said
    assert "it is made again" in said
    assert re.search(message, said), said
    assert torch.equal(outputs(load(folder)), expected)
    assert not capsys.readouterr().err


def test_changed_weights_have_another_copy_and_the_old_one_is_removed(
    copies: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(folder)
    old = the_copy(copies)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(2)
    model.save_pretrained(folder)
    changed = outputs(load(folder))
    assert the_copy(copies) != old
    assert f"{old}: removed" in capsys.readouterr().err
    assert torch.equal(changed, outputs(load(folder, quantized_copy=False)))


def test_a_moved_model_keeps_its_copy(copies: Path, folder: Path, tmp_path: Path) -> None:
    load(folder)
    before = the_copy(copies)
    (tmp_path / "elsewhere").mkdir()
    moved = folder.rename(tmp_path / "elsewhere" / "chat")
    load(moved)
    assert the_copy(copies) == before


def test_a_full_disk_is_reported_and_the_model_loads(
    copies: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(quantized_copy, "_write_weights", full)
    load(folder)
    said = capsys.readouterr().err
    assert "no quantized copy was kept" in said
    assert "No space left on device" in said
    assert list(copies.iterdir()) == []


def test_too_little_space_is_known_before_writing(
    copies: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(copies.anchor)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    load(folder)
    assert "GB needed" in capsys.readouterr().err
    assert not copies.exists() or list(copies.iterdir()) == []


def test_another_process_may_be_writing_the_copy(
    copies: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(folder)
    made = the_copy(copies)
    shutil.rmtree(made)
    with hold_file(made):
        load(folder)
    assert "is writing it" in capsys.readouterr().err
    assert not made.exists()


def test_two_writers_at_once_leave_one_whole_copy(copies: Path, folder: Path) -> None:
    model = load(folder, quantized_copy=False).model
    copy = QuantizedCopy(folder, LLMConfig(str(folder)), torch.float32)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(copy.write, [model] * 8))
    assert list(copies.iterdir()) == [copy.path]
    assert copy.is_ready()


def test_small_models_and_plain_weights_have_no_copy(
    copies: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(folder, "none")
    monkeypatch.setattr(loading, "COPIED_BYTES", 10**9)
    load(folder)
    assert save_quantized_copy(LLMConfig(str(folder)), CPU) is None
    assert not copies.exists()


def test_the_option_changes_no_digest(recipe: Recipe) -> None:
    assert recipe.llm is not None
    assert "quantized_copy" not in identity_toml(recipe)
    off = dataclasses.replace(recipe.llm, quantized_copy=False)
    assert off.identity == recipe.llm.identity
