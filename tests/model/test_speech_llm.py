"""One step of the model against the naive step: padded, own prompt per row, full logits."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from rellm_cache.batches import Batch, Target
from rellm_cache.config import Recipe
from rellm_cache.llm.frozen import FrozenLLM, load_llm
from rellm_cache.llm.packing import IGNORED
from rellm_cache.model.losses import TERMS
from rellm_cache.model.speech_llm import SpeechLLM

CPU = torch.device("cpu")


@pytest.fixture
def llm(recipe: Recipe) -> FrozenLLM:
    assert recipe.llm is not None
    return load_llm(recipe.llm, CPU)


def make_batch(llm: FrozenLLM) -> Batch:
    torch.manual_seed(1)
    lengths = torch.tensor([40, 90, 63])
    end = llm.chat.ids(llm.chat.end_text)
    return Batch(
        ids=("a", "b", "c"),
        speech=torch.randn(3, 90, 16).half(),
        emotion=torch.randn(3, 90, 16).half(),
        frame_lengths=lengths,
        emotions=torch.tensor([0, 3, IGNORED]),
        vad=torch.tensor([[0.1, 0.5, 0.9], [float("nan")] * 3, [0.3, 0.3, 0.3]]),
        targets=(
            (Target("response", llm.chat.ids("I am glad.") + end),),
            (
                Target("response", llm.chat.ids("Oh no, what happened")),
                Target("recognition", llm.chat.ids("sad") + end),
            ),
            (),
        ),
    )


def naive_losses(model: SpeechLLM, llm: FrozenLLM, batch: Batch) -> tuple[torch.Tensor, ...]:
    """Summed response and recognition losses: each example in a padded row of its own."""
    speech = model.speech(batch)
    rows, labels, tasks = [], [], []
    for index, targets in enumerate(batch.targets):
        for target in targets:
            prompt = model.prompts[target.task]
            answer = torch.tensor(target.ids)
            known = torch.cat(
                [llm.embed(prompt.before), speech.one(index), llm.embed(prompt.after)]
            )
            rows.append(torch.cat([known, llm.embed(target.ids)]))
            labels.append(torch.cat([torch.full((len(known),), IGNORED), answer]))
            tasks.append(target.task)
    embeddings = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    label = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED)
    mask = torch.nn.utils.rnn.pad_sequence(
        [torch.ones(len(r), dtype=torch.long) for r in rows], batch_first=True
    )
    logits = llm.model(inputs_embeds=embeddings, attention_mask=mask).logits[:, :-1]
    each = F.cross_entropy(logits.transpose(1, 2), label[:, 1:], reduction="none").sum(1)
    return tuple(
        torch.stack([each[i] for i, t in enumerate(tasks) if t == task]).sum()
        for task in ("response", "recognition")
    )


@pytest.mark.parametrize("row_tokens", [1, 512], ids=["a row each", "packed"])
def test_a_step_equals_the_naive_step(recipe: Recipe, llm: FrozenLLM, row_tokens: int) -> None:
    assert recipe.llm is not None
    recipe = replace(recipe, llm=replace(recipe.llm, row_tokens=row_tokens))
    torch.manual_seed(0)
    model = SpeechLLM(recipe, 16, 16, llm).eval()
    batch = make_batch(llm)
    terms = model(batch).terms
    (terms.sums[0] + terms.sums[1]).backward()
    ours = {n: p.grad.clone() for n, p in model.adapter.named_parameters() if p.grad is not None}
    model.zero_grad()
    response, recognition = naive_losses(model, llm, batch)
    (response + recognition).backward()
    torch.testing.assert_close(terms.sums[:2], torch.stack([response, recognition]))
    theirs = {n: p.grad for n, p in model.adapter.named_parameters() if p.grad is not None}
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        scale = expected.abs().max().clamp(min=1e-6)
        assert (ours[name] - expected).abs().max() / scale < 1e-5, name


def test_counts_are_known_before_the_forward_pass(recipe: Recipe, llm: FrozenLLM) -> None:
    model = SpeechLLM(recipe, 16, 16, llm).eval()
    batch = make_batch(llm)
    counts = dict(zip(TERMS, model.counts(batch).tolist(), strict=True))
    tokens = [len(t.ids) for targets in batch.targets for t in targets]
    assert counts == {
        "response": tokens[0] + tokens[1],
        "recognition": tokens[2],
        "category": 2,
        "dimension": 2,
    }
    assert model(batch).terms.counts.tolist() == list(counts.values())


def test_label_likelihoods_are_those_of_separate_rows(recipe: Recipe, llm: FrozenLLM) -> None:
    model = SpeechLLM(recipe, 16, 16, llm).eval().requires_grad_(False)
    batch = make_batch(llm)
    labels = [llm.chat.ids(name) for name in ("happy", "sad")]
    speech = model.speech(batch)
    found = model.label_log_likelihoods(speech, labels)
    for index in range(3):
        for column, label in enumerate(labels):
            row = torch.cat(
                [model.prompt_embeddings(speech.one(index), "recognition"), llm.embed(label)]
            )
            logits = llm.model(inputs_embeds=row[None]).logits[0]
            expected = (
                logits[-len(label) - 1 : -1].log_softmax(1).gather(1, torch.tensor(label)[:, None])
            )
            assert float(found[index, column]) == pytest.approx(float(expected.sum()), rel=1e-4)


def test_nothing_frozen_is_among_the_parameters(recipe: Recipe, llm: FrozenLLM) -> None:
    model = SpeechLLM(recipe, 16, 16, llm)
    assert {name.split(".")[0] for name in model.state_dict()} == {"adapter", "heads"}
    assert {n for n, _ in model.named_parameters()} == set(model.state_dict())


def test_a_wrong_output_size_is_refused(recipe: Recipe, llm: FrozenLLM) -> None:
    adapter = replace(recipe.adapter, output_size=99)
    with pytest.raises(Exception, match=r"output_size = 99, but .* has hidden size 32"):
        SpeechLLM(replace(recipe, adapter=adapter), 16, 16, llm)


def test_no_clip_is_influenced_by_its_batch(recipe: Recipe, llm: FrozenLLM, tmp_path: Path) -> None:
    model = SpeechLLM(recipe, 16, 16, llm).eval()
    batch = make_batch(llm)
    alone = replace(
        batch,
        ids=("a",),
        speech=batch.speech[:1, :40],
        emotion=None if batch.emotion is None else batch.emotion[:1, :40],
        frame_lengths=batch.frame_lengths[:1],
        emotions=batch.emotions[:1],
        vad=batch.vad[:1],
        targets=batch.targets[:1],
    )
    torch.testing.assert_close(
        model(batch).emotion_logits[:1], model(alone).emotion_logits, rtol=0, atol=1e-5
    )
