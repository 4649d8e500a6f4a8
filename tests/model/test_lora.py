"""A step with LoRA against the naive step: padded rows, LoRA written out, full logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from rellm_cache.config.schema import LoraConfig, Recipe
from rellm_cache.data.batch import IGNORED, Batch, Target
from rellm_cache.errors import RunError
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.runs.weights import load_tensors, save_tensors, trained_parameters

CPU = torch.device("cpu")
RANK, ALPHA = 3, 6.0
SCOPES: tuple[Literal["speech", "all"], ...] = ("speech", "all")


@pytest.fixture
def llm(recipe: Recipe) -> FrozenLLM:
    assert recipe.llm is not None
    return load_llm(recipe.llm, CPU)


def with_scope(recipe: Recipe, scope: Any, pack_length: int = 512, dropout: float = 0.0) -> Recipe:
    assert recipe.llm is not None
    lora = LoraConfig(rank=RANK, alpha=ALPHA, dropout=dropout, scope=scope)
    return replace(recipe, llm=replace(recipe.llm, lora=lora, pack_length=pack_length))


def make_model(recipe: Recipe, llm: FrozenLLM) -> SpeechLLM:
    """As after some steps: no B of LoRA is zero."""
    torch.manual_seed(0)
    model = SpeechLLM(recipe, {"speech": 16, "emotion": 16}, llm).eval()
    assert model.lora is not None
    for parameter in model.lora.parameters():
        nn.init.normal_(parameter, std=0.1)  # larger ones make float32 itself inexact
    return model


def make_batch(llm: FrozenLLM) -> Batch:
    torch.manual_seed(1)
    end = llm.chat.end_ids
    return Batch(
        ids=("a", "b"),
        streams={"speech": torch.randn(2, 90, 16).half(), "emotion": torch.randn(2, 90, 16).half()},
        frame_lengths=torch.tensor([40, 90]),
        emotions=torch.tensor([0, 3]),
        vad=torch.full((2, 3), float("nan")),
        targets=(
            (Target("response_lm", llm.chat.ids("I am glad.") + end),),
            (
                Target("response_lm", llm.chat.ids("Oh no, what happened")),
                Target("emotion_lm", llm.chat.ids("sad") + end),
            ),
        ),
    )


@contextmanager
def lora_written_out(model: SpeechLLM, llm: FrozenLLM, where: Tensor) -> Iterator[None]:
    """Each target of the frozen model adds (alpha / rank) B A x where `where` (B, T) is true."""
    weights = {
        n.removeprefix("lora."): p for n, p in trained_parameters(model).items() if "lora" in n
    }
    handles = []
    for name, module in llm.model.named_modules():
        a = weights.get(f"{name}.lora_A.weight")
        if a is None:
            continue

        def add(_: Any, inputs: Any, output: Tensor, a: Tensor = a, name: str = name) -> Tensor:
            delta = inputs[0] @ a.T @ weights[f"{name}.lora_B.weight"].T * (ALPHA / RANK)
            return output + delta * where.unsqueeze(2)

        handles.append(module.register_forward_hook(add))
    assert len(handles) == 2 * 7
    yield
    for handle in handles:
        handle.remove()


def naive_loss(model: SpeechLLM, llm: FrozenLLM, batch: Batch, scope: str) -> Tensor:
    """Summed response and recognition losses: each example in a padded row of its own."""
    speech = model.speech(batch)
    rows, labels, heard = [], [], []
    for index, targets in enumerate(batch.targets):
        for target in targets:
            prompt, sound = model.prompts[target.task], speech.one(index)
            parts = (llm.embed(prompt.before), sound, llm.embed((*prompt.after, *target.ids)))
            rows.append(torch.cat(parts))
            answer = torch.tensor(target.ids)
            known = torch.full((len(rows[-1]) - len(answer),), IGNORED)
            labels.append(torch.cat([known, answer]))
            place = torch.zeros(len(rows[-1]), dtype=torch.bool)
            place[len(prompt.before) : len(prompt.before) + len(sound)] = True
            heard.append(place if scope == "speech" else torch.ones_like(place))
    mask = pad_sequence([torch.ones(len(r), dtype=torch.long) for r in rows], batch_first=True)
    label = pad_sequence(labels, batch_first=True, padding_value=IGNORED)
    with lora_written_out(model, llm, pad_sequence(heard, batch_first=True)):
        embeddings = pad_sequence(rows, batch_first=True)
        logits = llm.model(inputs_embeds=embeddings, attention_mask=mask).logits[:, :-1]
    return F.cross_entropy(logits.transpose(1, 2), label[:, 1:], reduction="sum")


def sums(model: SpeechLLM, batch: Batch) -> list[Tensor]:
    """Sum of each loss of a batch."""
    return list(model(batch).terms.sums.values())


def gradients(model: SpeechLLM, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def checkpointed(llm: FrozenLLM) -> FrozenLLM:
    """The same LLM, each of its layers run a second time in the backward pass."""
    return FrozenLLM(llm.model, llm.chat, replace(llm.config, activation_checkpointing=True))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums in one order: two threads alone move a gradient by up to 1e-5 of its largest value."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("again", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("pack_length", [1, 512], ids=["a row each", "packed"])
@pytest.mark.parametrize("scope", SCOPES)
def test_a_step_equals_the_naive_step(
    recipe: Recipe, llm: FrozenLLM, scope: str, pack_length: int, again: bool
) -> None:
    model = make_model(with_scope(recipe, scope, pack_length), llm)
    batch = make_batch(llm)
    naive = naive_loss(model, llm, batch, scope)
    expected = gradients(model, naive)
    if again:
        model = make_model(with_scope(recipe, scope, pack_length), checkpointed(llm))
    terms = model(batch).terms
    loss = terms["response_lm"].sum + terms["emotion_lm"].sum
    found = gradients(model, loss)
    torch.testing.assert_close(loss, naive, rtol=1e-6, atol=0)
    assert {n for n in found if not n.startswith("heads.")} == expected.keys()
    assert {name.split(".")[0] for name in expected} == {"adapter", "lora"}
    for name, gradient in expected.items():
        scale = gradient.abs().max().clamp(min=1e-6)
        assert (found[name] - gradient).abs().max() / scale < 1e-5, name


@pytest.mark.parametrize("scope", SCOPES)
def test_dropout_is_the_same_when_a_layer_runs_again(
    recipe: Recipe, llm: FrozenLLM, scope: str
) -> None:
    recipe = with_scope(recipe, scope, pack_length=1, dropout=0.5)
    batch = make_batch(llm)

    def step(model: SpeechLLM, training: bool) -> tuple[Tensor, dict[str, Tensor]]:
        assert model.lora is not None
        model.lora.train(training)
        torch.manual_seed(4)
        loss = torch.stack(sums(model, batch)).sum()
        return loss.detach(), gradients(model, loss)

    quiet, _ = step(make_model(recipe, llm), training=False)
    loss, kept = step(make_model(recipe, llm), training=True)
    again, checkpoints = step(make_model(recipe, checkpointed(llm)), training=True)
    assert not torch.equal(loss, quiet)
    # To the last bits: in one of them the prompt is remembered, in the other it is in the row.
    torch.testing.assert_close(again, loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(checkpoints, kept, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scope", SCOPES)
def test_label_likelihoods_and_answers_are_those_of_each_utterance_alone(
    recipe: Recipe, llm: FrozenLLM, scope: str
) -> None:
    model = make_model(with_scope(recipe, scope), llm).requires_grad_(False)
    speech = model.speech(make_batch(llm))
    label = llm.chat.ids("happy")
    found = model.label_log_likelihoods(speech, [llm.chat.ids("sad"), label])
    asked = model.prompts["emotion_lm"]
    before, after = llm.embed(asked.before), llm.embed(asked.after)
    start = len(before)
    for index in range(2):
        row = torch.cat([before, speech.one(index), after, llm.embed(label)])
        where = torch.ones(1, len(row), dtype=torch.bool)
        if scope == "speech":
            where[0, :start] = where[0, start + len(speech.one(index)) :] = False
        with lora_written_out(model, llm, where):
            logits = llm.model(inputs_embeds=row[None]).logits[0, -len(label) - 1 : -1]
        expected = logits.log_softmax(1).gather(1, torch.tensor(label)[:, None]).sum()
        assert float(found[index, 1]) == pytest.approx(float(expected), rel=1e-4)
    together = model.answers(speech, "answer", 6)
    lone = replace(speech, embeddings=speech.embeddings[1:], lengths=speech.lengths[1:])
    assert model.answers(lone, "answer", 6) == together[1:]


def test_an_llm_serves_recipes_with_and_without(recipe: Recipe, llm: FrozenLLM) -> None:
    batch = make_batch(llm)
    torch.manual_seed(0)
    before = sums(SpeechLLM(recipe, {"speech": 16, "emotion": 16}, llm).eval(), batch)
    make_model(with_scope(recipe, "speech"), llm)
    torch.manual_seed(0)
    plain = SpeechLLM(recipe, {"speech": 16, "emotion": 16}, llm).eval()
    assert plain.lora is None
    assert sums(plain, batch) == before
    torch.manual_seed(0)  # LoRA's first weights are drawn last and add nothing
    fresh = SpeechLLM(with_scope(recipe, "all"), {"speech": 16, "emotion": 16}, llm).eval()
    # To the last bits: LoRA everywhere has the prompt in each row, where it is remembered without.
    torch.testing.assert_close(sums(fresh, batch), before, rtol=1e-6, atol=0)


def test_a_checkpoint_holds_lora_and_nothing_frozen(
    recipe: Recipe, llm: FrozenLLM, tmp_path: Path
) -> None:
    recipe = with_scope(recipe, "speech")
    model = make_model(recipe, llm)
    names = set(trained_parameters(model))
    assert names == set(model.state_dict())
    assert len([n for n in names if n.startswith("lora.")]) == 2 * 7 * 2
    save_tensors(tmp_path / "adapter.safetensors", model)
    other = SpeechLLM(recipe, {"speech": 16, "emotion": 16}, llm).eval()
    load_tensors(tmp_path / "adapter.safetensors", other)
    batch = make_batch(llm)
    assert sums(other, batch) == sums(model, batch)


def test_a_run_without_lora_can_be_started_from(
    recipe: Recipe, llm: FrozenLLM, tmp_path: Path
) -> None:
    path = tmp_path / "adapter.safetensors"
    plain = SpeechLLM(recipe, {"speech": 16, "emotion": 16}, llm).eval()
    save_tensors(path, plain)
    fresh = SpeechLLM(with_scope(recipe, "speech"), {"speech": 16, "emotion": 16}, llm).eval()
    with pytest.raises(RunError, match=r"tensor 'lora\.model\.layers\.0.*: found nothing"):
        load_tensors(path, fresh)
    load_tensors(path, fresh, fresh_lora=True)
    batch = make_batch(llm)
    assert sums(fresh, batch) == sums(plain, batch)
    # Half a LoRA is not taken for none.
    save_tensors(path, make_model(with_scope(recipe, "speech"), llm))
    load_tensors(path, fresh, fresh_lora=True)
    with pytest.raises(RunError, match=r"tensor 'lora\..*expected nothing"):
        load_tensors(path, plain, fresh_lora=True)
