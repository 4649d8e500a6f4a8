"""Output matrix in 4 bits: losses and gradients by blocks equal those of the unpacked matrix."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rellm_cache.config.schema import LLMConfig
from rellm_cache.errors import ConfigError
from rellm_cache.llm.decoding import continue_prompts
from rellm_cache.llm.loading import load_llm
from rellm_cache.llm.output_matrix import QuantizedOutput, logits_of
from rellm_cache.llm.packed_rows import Segment, pack
from rellm_cache.llm.teacher_distribution import distribution_rows
from rellm_cache.model.losses.token import token_cross_entropy, token_divergences

CPU = torch.device("cpu")
TOKENS, SIZE, VOCABULARY = 7, 64, 300


@pytest.fixture
def output() -> QuantizedOutput:
    """300 rows in blocks of 128: the last one is smaller."""
    torch.manual_seed(1)
    return QuantizedOutput(torch.randn(VOCABULARY, SIZE), rows=128)


def states() -> torch.Tensor:
    torch.manual_seed(2)
    return torch.randn(TOKENS, SIZE).requires_grad_()


def test_the_matrix_is_near_the_original_and_exact_by_blocks() -> None:
    torch.manual_seed(1)
    weight = torch.randn(VOCABULARY, SIZE)
    output = QuantizedOutput(weight, rows=128)
    dense = output.dense()
    assert dense.shape == output.shape == weight.shape
    assert len(output) == VOCABULARY
    assert 0 < (dense - weight).abs().mean() < 0.1
    hidden = states()
    torch.testing.assert_close(logits_of(hidden, output), hidden @ dense.T)


def test_cross_entropy_by_blocks(output: QuantizedOutput) -> None:
    # Answers in the first, a middle and the last row of blocks, and one twice.
    answers = (0, 127, 128, 255, 256, 299, 299)
    found = []
    for weight in (output, output.dense()):
        hidden = states()
        row = pack([Segment(torch.zeros(TOKENS, SIZE), answers)])
        losses, _ = token_cross_entropy(row, hidden, weight)
        (losses * torch.arange(1, TOKENS + 1)).sum().backward()
        found.append((losses.detach(), hidden.grad))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_divergence_by_blocks(output: QuantizedOutput, temperature: float) -> None:
    torch.manual_seed(3)
    teacher = distribution_rows(
        torch.randn(TOKENS, SIZE), torch.randn(VOCABULARY, SIZE), 5, temperature
    )
    found = []
    for weight in (output, output.dense()):
        hidden = states()
        losses = token_divergences(hidden, weight, teacher, temperature)
        losses.sum().backward()
        found.append((losses.detach(), hidden.grad))
    torch.testing.assert_close(found[0], found[1])


def test_extreme_logits_are_finite(output: QuantizedOutput) -> None:
    found = []
    for weight in (output, output.dense()):
        hidden = (1000 * states().detach()).requires_grad_()
        row = pack([Segment(torch.zeros(TOKENS, SIZE), tuple(range(TOKENS)))])
        losses, _ = token_cross_entropy(row, hidden, weight)
        losses.sum().backward()
        assert losses.isfinite().all()
        found.append((losses.detach(), hidden.grad))
    torch.testing.assert_close(found[0], found[1])


def test_teacher_rows_from_a_matrix_in_4_bits(output: QuantizedOutput) -> None:
    hidden = states().detach()
    rows = [distribution_rows(hidden, weight, 5, 2.0) for weight in (output, output.dense())]
    torch.testing.assert_close(*rows)


@pytest.fixture
def untied(llm_folder: Path, tmp_path: Path) -> Path:
    """A chat model with an output matrix of its own."""
    folder = Path(shutil.copytree(llm_folder, tmp_path / "untied"))
    AutoModelForCausalLM.from_pretrained(llm_folder, tie_word_embeddings=False).save_pretrained(
        folder
    )
    return folder


def test_an_llm_answers_with_it(untied: Path) -> None:
    plain = load_llm(LLMConfig(str(untied), quantization="none"), CPU)
    llm = load_llm(LLMConfig(str(untied), quantization="none", quantize_output=True), CPU)
    assert isinstance(llm.output_weight, QuantizedOutput)
    weight = plain.output_weight
    assert isinstance(weight, torch.Tensor)
    weight.data.copy_(llm.output_weight.dense())  # what it computes with
    prompts = [llm.embed(llm.chat.ids(text)) for text in ("Hello", "A longer one")]
    answers = [continue_prompts(one, prompts, 6) for one in (plain, llm)]
    assert answers[0] == answers[1]
    assert llm.config.identity != plain.config.identity


def test_a_tied_matrix_is_refused(llm_folder: Path) -> None:
    config = LLMConfig(str(llm_folder), quantization="none", quantize_output=True)
    with pytest.raises(ConfigError, match=r"llm\.quantize_output = true: .* ties its input"):
        load_llm(config, CPU)
