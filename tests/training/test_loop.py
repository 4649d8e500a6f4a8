"""Training step: equal loss and gradient for any micro-batches, and after running out of memory."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn

from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import read_split
from rellm_cache.data.collate import collate
from rellm_cache.data.examples import make_examples
from rellm_cache.data.streams import open_streams
from rellm_cache.errors import RunError
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm
from rellm_cache.model.losses.loss_terms import LossTerms
from rellm_cache.training.distributed import flatten_gradients
from rellm_cache.training.loop import Trainer, TrainingData, make_accelerator


@dataclass
class Step:
    """The first step of a run."""

    terms: LossTerms
    gradient: torch.Tensor
    sizes: list[int]
    trainer: Trainer


Take = Callable[..., Step]


@pytest.fixture
def take(corpus: Path, cache: Path, quick: Recipe, tmp_path: Path) -> Take:
    """`take(micro_batch_tokens=…)`: a step of seven clips; `before` is called with the trainer."""
    assert quick.llm is not None
    llm: FrozenLLM = load_llm(quick.llm, torch.device("cpu"))
    utterances = read_split(corpus, "train")

    def run(
        before: Callable[[Trainer], object] = lambda trainer: None,
        vad_kind: Literal["mse", "ccc"] = "mse",
        **training: Any,
    ) -> Step:
        settings = replace(
            quick.training, **{"batch_size": 1, "gradient_accumulation": 7, **training}
        )
        losses = replace(quick.losses, vad_kind=vad_kind)
        recipe = replace(quick, training=settings, losses=losses)
        data = TrainingData(
            make_examples(utterances, recipe, llm), [], open_streams(recipe.encoders, cache)
        )
        trainer = Trainer(recipe, data, tmp_path, llm, make_accelerator(tmp_path))
        optimizer, sizes, gradients = trainer.optimizer, [], []
        optimizer.adamw.register_step_pre_hook(
            lambda *_: gradients.append(flatten_gradients(optimizer.tensors))
        )
        trainer.model.adapter.register_forward_pre_hook(
            lambda module, arguments: sizes.append(len(arguments[0]))
        )
        before(trainer)
        (batches,) = trainer.loader.groups(trainer.groups(0))
        terms, _ = trainer.step(batches, 0)
        return Step(terms, gradients[0], sizes, trainer)

    return run


def assert_equal(one: Step, other: Step) -> None:
    torch.testing.assert_close(one.terms.sums, other.terms.sums, rtol=1e-5, atol=1e-5)
    assert one.terms.counts == other.terms.counts
    difference = (one.gradient - other.gradient).norm() / one.gradient.norm()
    assert difference < 1e-5


def test_micro_batches_do_not_change_a_step(take: Take) -> None:
    by_clip = take()
    assert by_clip.sizes == [1] * 7
    for setting, parts in ((150, range(3, 7)), (10_000, range(1, 2)), ("auto", range(1, 7))):
        step = take(micro_batch_tokens=setting)
        assert sum(step.sizes) == 7
        assert len(step.sizes) in parts
        assert_equal(step, by_clip)
    assert step.trainer.micro_batcher.limit > 512  # auto measured it and found room


def test_micro_batch_averaging_is_the_mean_of_the_means_of_draws(take: Take) -> None:
    """The mean of tokens or clips of each draw, then the mean of draws: computed one by one."""
    expected: dict[str, Any] = {}

    def arrange(trainer: Trainer) -> None:
        model, means = trainer.model.train(), dict[str, list[torch.Tensor]]()
        (draws,) = trainer._draws(0)
        for draw in draws:
            batch = collate([trainer.data.train[i] for i in draw], trainer.data.streams)
            for name, term in model(batch).terms.items():
                if term.count:
                    means.setdefault(name, []).append(term.sum / term.count)
        expected.update({name: torch.stack(found).mean() for name, found in means.items()})
        torch.stack([model.loss_weights[n] * mean for n, mean in expected.items()]).sum().backward()
        nn.utils.clip_grad_norm_(trainer.optimizer.tensors, trainer.recipe.training.max_grad_norm)
        expected["gradient"] = flatten_gradients(trainer.optimizer.tensors)
        trainer.optimizer.gradients.clear()

    settings = {"averaging": "micro_batch", "batch_size": 3, "gradient_accumulation": 3}
    step = take(arrange, **settings)
    assert sorted(step.sizes[3:]) == [1, 3, 3]
    found = step.terms.means()
    gradient = expected.pop("gradient")
    assert found == pytest.approx({name: mean.item() for name, mean in expected.items()}, rel=1e-5)
    assert (step.gradient - gradient).norm() / gradient.norm() < 1e-5
    assert found["response_lm"] != pytest.approx(take().terms.means()["response_lm"], rel=1e-4)
    cut = take(**settings, micro_batch_tokens=150)  # memory cuts a draw, but does not change it
    assert len(cut.sizes) > 3
    assert_equal(cut, step)
    halved = take(fail_above(1), **settings)
    assert halved.sizes[-7:] == [1] * 7
    assert_equal(halved, step)


def fail_above(clips: int) -> Callable[[Trainer], None]:
    """Memory for a number of clips; more run out of it halfway through a backward pass."""

    def arrange(trainer: Trainer) -> None:
        at_once: list[int] = []

        def full(gradient: torch.Tensor) -> None:
            if at_once[-1] > clips:
                raise torch.OutOfMemoryError("CUDA out of memory")

        trainer.model.adapter.register_forward_pre_hook(
            lambda module, arguments: at_once.append(len(arguments[0]))
        )
        conv: nn.Module = trainer.model.adapter.convs[1]
        next(conv.parameters()).register_hook(full)

    return arrange


def test_out_of_memory_halves_and_continues(take: Take, capsys: pytest.CaptureFixture[str]) -> None:
    step = take(fail_above(2), batch_size=7, gradient_accumulation=1)
    assert step.sizes == [7, 4, 2, 2, 2, 1]  # seven, then four of 4 + 3, then all four parts
    assert step.trainer.micro_batcher.limit == 2
    assert_equal(step, take())
    halved = take(fail_above(4), vad_kind="ccc", batch_size=7, gradient_accumulation=1)
    assert_equal(halved, take(vad_kind="ccc"))
    said = capsys.readouterr().err
    assert "Out of memory with 7 clips at once: continuing with half" in said
    assert "Out of memory with 4 clips at once" in said


def test_a_ccc_prepass_out_of_memory_is_halved_too(
    take: Take, capsys: pytest.CaptureFixture[str]
) -> None:
    def arrange(trainer: Trainer) -> None:
        def full(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            if not torch.is_grad_enabled() and len(arguments[0]) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")

        trainer.model.adapter.register_forward_pre_hook(full)

    step = take(arrange, vad_kind="ccc", batch_size=4, gradient_accumulation=2)
    assert step.trainer.micro_batcher.limit == 2
    assert "Out of memory with 4 clips at once" in capsys.readouterr().err
    assert_equal(step, take(vad_kind="ccc"))


def test_errors_that_halving_does_not_fix_are_raised(take: Take) -> None:
    with pytest.raises(RunError, match=r"tones/02: out of memory though trained alone; lower llm"):
        take(fail_above(0), micro_batch_tokens=100_000)

    def fail(gradient: torch.Tensor) -> None:
        raise RuntimeError("shapes differ")

    def arrange(trainer: Trainer) -> None:
        next(trainer.model.adapter.parameters()).register_hook(fail)

    with pytest.raises(RuntimeError, match="shapes differ"):
        take(arrange)
