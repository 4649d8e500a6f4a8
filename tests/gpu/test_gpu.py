"""GPU tests: behaviour that only a GPU can show; skipped without one."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rellm_cache.config.schema import LLMConfig, Recipe
from rellm_cache.llm.decoding import continue_prompts
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm
from rellm_cache.llm.packed_rows import PackedRow, Segment, pack
from rellm_cache.training.loop import read_metrics
from rellm_cache.training.run import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def load(folder: Path, **fields: object) -> FrozenLLM:
    config = replace(LLMConfig(str(folder), quantization="none"), **fields)
    return load_llm(config, torch.device("cuda"))


def row_of(llm: FrozenLLM, lengths: tuple[int, ...]) -> tuple[PackedRow, torch.Tensor]:
    """A prompt and examples behind it, and the leaf that their embeddings come from."""
    torch.manual_seed(0)
    leaf = torch.randn(
        sum(lengths), llm.hidden_size, device="cuda", dtype=llm.dtype, requires_grad=True
    )
    segments = [
        Segment(part, parent=None if index == 0 else 0)
        for index, part in enumerate(leaf.split(list(lengths)))
    ]
    return pack(segments), leaf


@pytest.mark.filterwarnings("default")  # torch's compiler warns of itself
def test_flex_attention_has_the_same_gradients(llm_folder: Path) -> None:
    found = {}
    for attention in ("sdpa", "flex"):
        llm = load(llm_folder, attention=attention)
        row, leaf = row_of(llm, (37, 90, 130, 61))
        hidden = llm.hidden_states(row)
        hidden.float().sin().sum().backward()
        assert leaf.grad is not None
        found[attention] = (hidden.detach().float(), leaf.grad.float())
    for exact, other in zip(found["sdpa"], found["flex"], strict=True):
        assert torch.nn.functional.cosine_similarity(exact, other).min() > 0.99


def test_the_input_embeddings_may_stay_on_the_host(llm_folder: Path, tmp_path: Path) -> None:
    untied = tmp_path / "untied"
    shutil.copytree(llm_folder, untied)
    AutoModelForCausalLM.from_pretrained(llm_folder, tie_word_embeddings=False).save_pretrained(
        untied
    )
    answers = []
    for offload in (False, True):
        llm = load(untied, offload_embeddings=offload)
        prompt = llm.embed(llm.chat.ids("Hello"))
        assert prompt.device.type == "cuda"
        answers.append(continue_prompts(llm, [prompt], 5))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("gradients", ["fp32", "int8"])
@pytest.mark.parametrize("optimiser", ["adamw", "adamw8bit", "paged_adamw8bit"])
def test_a_run_learns_with_micro_batches_found_by_itself(
    corpus: Path, recipe: Recipe, tmp_path: Path, optimiser: str, gradients: str
) -> None:
    from rellm_cache.extraction.run import extract

    assert recipe.llm is not None
    extract(corpus, recipe, tmp_path / "cache")
    training = replace(
        recipe.training,
        epochs=4,
        learning_rate=3e-3,
        micro_batch_tokens="auto",
        optimizer=optimiser,
        gradient_dtype=gradients,
        checkpoint_minutes=0.0,
    )
    llm = replace(recipe.llm, quantization="nf4", activation_checkpointing=True)
    report = train(
        replace(recipe, training=training, llm=llm), corpus, tmp_path / "cache", tmp_path / "run"
    )
    assert report.validation["loss"] < report.untrained["loss"]
    assert all(row["waited"] >= 0 for row in read_metrics(tmp_path / "run") if "waited" in row)
