"""One step of the model against the naive step: padded, own prompt per row, full logits."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from naive import naive_losses, naive_total
from torch.nn import functional as F

from rellm_cache.config.schema import Recipe
from rellm_cache.data.batch import IGNORED, Batch, Target
from rellm_cache.data.streams import QuantizationParams
from rellm_cache.llm.decoding import continue_prompts
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm
from rellm_cache.llm.teacher_distribution import distribution_rows, split_rows
from rellm_cache.model.adapter import dequantize
from rellm_cache.model.speech_llm import SpeechLLM

CPU = torch.device("cpu")


@pytest.fixture
def llm(recipe: Recipe) -> FrozenLLM:
    assert recipe.llm is not None
    return load_llm(recipe.llm, CPU)


def make_batch(llm: FrozenLLM) -> Batch:
    torch.manual_seed(1)
    lengths = torch.tensor([40, 90, 63])
    end = llm.chat.end_ids
    return Batch(
        ids=("a", "b", "c"),
        streams={"speech": torch.randn(3, 90, 16).half(), "emotion": torch.randn(3, 90, 16).half()},
        frame_lengths=lengths,
        emotions=torch.tensor([0, 3, IGNORED]),
        vad=torch.tensor([[0.1, 0.5, 0.9], [float("nan")] * 3, [0.3, 0.3, 0.3]]),
        targets=(
            (Target("response_lm", llm.chat.ids("I am glad.") + end),),
            (
                Target("response_lm", llm.chat.ids("Oh no, what happened")),
                Target("emotion_lm", llm.chat.ids("sad") + end),
            ),
            (),
        ),
    )


def gradients(model: SpeechLLM) -> dict[str, torch.Tensor]:
    """Of everything that trains; then none."""
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_equals_naive_step(model: SpeechLLM, llm: FrozenLLM, batch: Batch, bound: float) -> None:
    """Each loss, and each gradient relative to its largest value."""
    terms = model(batch).terms
    terms.total(model.loss_weights).backward()
    ours = gradients(model)
    losses = naive_losses(model, llm, batch)
    naive_total(model, losses).backward()
    theirs = gradients(model)
    assert terms.means() == pytest.approx({n: x.item() for n, x in losses.items()}, abs=bound)
    assert ours.keys() == theirs.keys() == {n for n, _ in model.named_parameters()}
    for name, expected in theirs.items():
        assert (ours[name] - expected).abs().max() < bound * expected.abs().max(), name


def taught(batch: Batch, llm: FrozenLLM, top_k: int) -> Batch:
    """The batch with a random teacher's rows for each token of its responses."""
    torch.manual_seed(2)
    tokens = sum(len(t.ids) for ts in batch.targets for t in ts if t.task == "response_lm")
    hidden = torch.randn(tokens, llm.hidden_size)
    return replace(batch, teacher=distribution_rows(hidden, llm.output_weight, top_k, 2.0))


def naive_divergence(model: SpeechLLM, llm: FrozenLLM, batch: Batch) -> torch.Tensor:
    """Summed T^2 KL over bins: each example in a row of its own, full probabilities."""
    assert batch.teacher is not None
    speech = model.speech(batch)
    prompt = model.prompts["response_lm"]
    logits = []
    for index, targets in enumerate(batch.targets):
        for target in (t for t in targets if t.task == "response_lm"):
            parts = [llm.embed(prompt.before), speech.one(index), llm.embed(prompt.after)]
            row = torch.cat([*parts, llm.embed(target.ids)])
            full = llm.model(inputs_embeds=row[None]).logits[0]
            logits.append(full[-len(target.ids) - 1 : -1])
    q = (torch.cat(logits) / 2).softmax(1)
    ids, log_p, log_p_rest = split_rows(batch.teacher)
    own = q.gather(1, ids)
    log_q = torch.cat([own, 1 - own.sum(1, keepdim=True)], 1).log()
    log_p = torch.cat([log_p, log_p_rest], 1)
    return 4 * (log_p.exp() * (log_p - log_q)).sum()


@pytest.mark.parametrize("pack_length", [1, 512], ids=["a row each", "packed"])
def test_the_divergence_equals_the_naive_one(
    recipe: Recipe, llm: FrozenLLM, pack_length: int
) -> None:
    assert recipe.llm is not None
    losses = replace(recipe.losses, response_kl=1.0)
    recipe = replace(recipe, losses=losses, llm=replace(recipe.llm, pack_length=pack_length))
    torch.manual_seed(0)
    model = SpeechLLM(recipe, {"speech": 16, "emotion": 16}, llm).eval()
    batch = taught(make_batch(llm), llm, top_k=8)
    terms = model(batch).terms
    assert terms["response_kl"].count == terms["response_lm"].count
    terms["response_kl"].sum.backward()
    ours = {n: p.grad.clone() for n, p in model.adapter.named_parameters() if p.grad is not None}
    model.zero_grad()
    expected = naive_divergence(model, llm, batch)
    expected.backward()
    torch.testing.assert_close(terms["response_kl"].sum, expected, rtol=1e-5, atol=1e-5)
    for name, parameter in model.adapter.named_parameters():
        assert parameter.grad is not None
        scale = parameter.grad.abs().max().clamp(min=1e-6)
        assert (ours[name] - parameter.grad).abs().max() / scale < 1e-5, name


def test_class_weights_count_in_training_alone(recipe: Recipe, llm: FrozenLLM) -> None:
    model = SpeechLLM(recipe, {"speech": 16, "emotion": 16}, llm)
    model.class_weights = torch.tensor([0.25, 1.0, 1.0, 4.0, 1.0])
    batch = make_batch(llm)
    weighted, plain = model.train()(batch), model.eval()(batch)
    each = F.cross_entropy(plain.emotion_logits[:2], batch.emotions[:2], reduction="none")
    assert weighted.terms["emotion_ce"].count == 4.25
    assert plain.terms["emotion_ce"].count == 2
    torch.testing.assert_close(weighted.terms["emotion_ce"].sum, 0.25 * each[0] + 4 * each[1])
    torch.testing.assert_close(plain.terms["emotion_ce"].sum, each.sum())


@pytest.mark.parametrize("attention", ["segments", "sdpa"])
@pytest.mark.parametrize("checkpoint", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("pack_length", [1, 512], ids=["a row each", "packed"])
def test_a_step_equals_the_naive_step(
    recipe: Recipe, pack_length: int, checkpoint: bool, attention: Any
) -> None:
    assert recipe.llm is not None
    config = replace(
        recipe.llm,
        pack_length=pack_length,
        activation_checkpointing=checkpoint,
        attention=attention,
    )
    llm = load_llm(config, CPU)
    torch.manual_seed(0)
    model = SpeechLLM(replace(recipe, llm=config), {"speech": 16, "emotion": 16}, llm).eval()
    assert_equals_naive_step(model, llm, make_batch(llm), bound=1e-5)
    # The same after the model has answered, which stores keys and values.
    continue_prompts(llm, [llm.embed(llm.chat.ids("Hello"))], max_new_tokens=3)
    assert_equals_naive_step(model, llm, make_batch(llm), bound=1e-5)


def test_a_step_in_four_bits_equals_the_naive_step(recipe: Recipe) -> None:
    assert recipe.llm is not None
    llm = load_llm(replace(recipe.llm, quantization="nf4"), CPU)
    torch.manual_seed(0)
    model = SpeechLLM(recipe, {"speech": 16, "emotion": 16}, llm).eval()
    assert_equals_naive_step(model, llm, make_batch(llm), bound=5e-5)


def test_a_step_in_bfloat16_is_near_the_naive_step(recipe: Recipe, llm: FrozenLLM) -> None:
    half = FrozenLLM(llm.model.bfloat16(), llm.chat, llm.config)
    torch.manual_seed(0)
    model = SpeechLLM(recipe, {"speech": 16, "emotion": 16}, half).eval()
    assert_equals_naive_step(model, half, make_batch(half), bound=0.05)


def test_counts_are_known_before_the_forward_pass(recipe: Recipe, llm: FrozenLLM) -> None:
    model = SpeechLLM(recipe, {"speech": 16, "emotion": 16}, llm).eval()
    batch = make_batch(llm)
    counts = {name: float(count) for name, count in model.counts(batch).items()}
    tokens = [len(t.ids) for targets in batch.targets for t in targets]
    assert counts == {
        "response_lm": tokens[0] + tokens[1],
        "emotion_lm": tokens[2],
        "emotion_ce": 2,
        "vad": 2,
    }  # and nothing of losses without a weight
    assert model(batch).terms.counts == counts


@pytest.mark.parametrize("pack_length", [1, 60, 512])  # one request a row, two, or all three
def test_label_likelihoods_are_those_of_separate_rows(
    recipe: Recipe, llm: FrozenLLM, pack_length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm, "config", replace(llm.config, pack_length=pack_length))
    model = SpeechLLM(recipe, {"speech": 16, "emotion": 16}, llm).eval().requires_grad_(False)
    batch = make_batch(llm)
    labels = [llm.chat.ids(name) for name in ("happy", "sad")]
    speech = model.speech(batch)
    found = model.label_log_likelihoods(speech, labels)
    asked = model.prompts["emotion_lm"]
    before, after = llm.embed(asked.before), llm.embed(asked.after)
    for index in range(3):
        for column, label in enumerate(labels):
            row = torch.cat([before, speech.one(index), after, llm.embed(label)])
            logits = llm.model(inputs_embeds=row[None]).logits[0]
            expected = (
                logits[-len(label) - 1 : -1].log_softmax(1).gather(1, torch.tensor(label)[:, None])
            )
            assert float(found[index, column]) == pytest.approx(float(expected.sum()), rel=1e-4)


def test_nothing_frozen_is_among_the_parameters(recipe: Recipe, llm: FrozenLLM) -> None:
    model = SpeechLLM(recipe, {"speech": 16, "emotion": 16}, llm)
    assert {name.split(".")[0] for name in model.state_dict()} == {"adapter", "heads"}
    assert {n for n, _ in model.named_parameters()} == set(model.state_dict())


def test_a_wrong_output_size_is_refused(recipe: Recipe, llm: FrozenLLM) -> None:
    adapter = replace(recipe.adapter, output_size=99)
    with pytest.raises(Exception, match=r"output_size = 99, but .* has hidden size 32"):
        SpeechLLM(replace(recipe, adapter=adapter), {"speech": 16, "emotion": 16}, llm)


def test_no_clip_is_influenced_by_its_batch(recipe: Recipe, llm: FrozenLLM, tmp_path: Path) -> None:
    model = SpeechLLM(recipe, {"speech": 16, "emotion": 16}, llm).eval()
    batch = make_batch(llm)
    alone = replace(
        batch,
        ids=("a",),
        streams={name: frames[:1, :40] for name, frames in batch.streams.items()},
        frame_lengths=batch.frame_lengths[:1],
        emotions=batch.emotions[:1],
        vad=batch.vad[:1],
        targets=batch.targets[:1],
    )
    torch.testing.assert_close(
        model(batch).emotion_logits[:1], model(alone).emotion_logits, rtol=0, atol=1e-5
    )


def test_an_int8_stream_is_dequantized_with_its_own_scale(recipe: Recipe, llm: FrozenLLM) -> None:
    model = SpeechLLM(recipe, {"speech": 16, "emotion": 16}, llm).eval()
    batch = make_batch(llm)
    stored = torch.randint(-127, 128, (3, 90, 16), dtype=torch.int8)
    params = QuantizationParams(torch.rand(16) / 100, torch.randn(16))
    int8 = replace(
        batch, streams={**batch.streams, "emotion": stored}, quantization={"emotion": params}
    )
    floats = replace(batch, streams={**batch.streams, "emotion": dequantize(stored, params)})
    assert torch.equal(model(int8).emotion_logits, model(floats).emotion_logits)


def questioned(llm: FrozenLLM) -> Batch:
    """Two answers to tasks, and questions: two about one clip, one about another."""
    batch = make_batch(llm)
    end = llm.chat.end_ids

    def target(question: str, answer: str, metadata: str | None = None) -> Target:
        informed = None if metadata is None else llm.chat.ids(metadata + question)
        return Target("qa_lm", llm.chat.ids(answer) + end, llm.chat.ids(question), informed)

    first, second, _ = batch.targets
    asked = (*second, target(" Who?", "I."), target(" And why?", "No.", " (sad)"))
    return replace(batch, targets=(first, asked, (target(" What?", "Keys.", " (glad)"),)))


@pytest.mark.parametrize("pack_length", [512, 1, 60], ids=["one row", "a row each", "some"])
def test_questions_that_share_speech_lose_what_each_alone_does(
    recipe: Recipe, llm: FrozenLLM, pack_length: int
) -> None:
    assert recipe.llm is not None
    losses = replace(recipe.losses, qa_lm=0.7)
    recipe = replace(recipe, losses=losses, llm=replace(recipe.llm, pack_length=pack_length))
    torch.manual_seed(0)
    model = SpeechLLM(recipe, {"speech": 16, "emotion": 16}, llm)
    assert_equals_naive_step(model, llm, questioned(llm), 2e-5)


def test_speech_is_in_a_row_once_for_all_its_questions(recipe: Recipe, llm: FrozenLLM) -> None:
    model = SpeechLLM(recipe, {"speech": 16, "emotion": 16}, llm)
    batch = questioned(llm)
    only = replace(batch, targets=tuple(tuple(t for t in ts if t.after) for ts in batch.targets))
    speech = model.speech(only)
    assert model.rows is not None
    ((row, tasks),) = model.rows.packed(speech, only.targets)
    assert int(row.speech.sum()) == int(speech.lengths[1:].sum())
    assert set(tasks) == {"qa_lm"}
    assert len(row.prefix_owners) == len(model.prompts["qa_lm"].before)
    longest = sum(
        model.tokens(n, ts) for n, ts in zip(speech.lengths.tolist(), only.targets, strict=True)
    ) - int(speech.lengths[0])
    assert len(row.segments) <= longest  # the budget counts metadata, whether shown or not
    told = only.with_metadata(0.0, 1, 1)
    ((full, _),) = model.rows.packed(speech, told.targets)
    assert len(full.segments) == longest


def test_metadata_is_dropped_by_a_share_that_an_epoch_draws_anew(llm: FrozenLLM) -> None:
    batch = questioned(llm)
    many = replace(batch, ids=("a",) * 300, targets=batch.targets[2:] * 300)
    named = replace(many, ids=tuple(map(str, range(300))))

    def shown(dropout: float, seed: int = 1, epoch: int = 1) -> list[bool]:
        found = named.with_metadata(dropout, seed, epoch)
        return [target.after == target.after_with_metadata for (target,) in found.targets]

    assert all(shown(0.0))
    assert not any(shown(1.0))
    assert 0.2 < sum(shown(0.7)) / 300 < 0.4
    assert shown(0.7) == shown(0.7)
    assert shown(0.7) != shown(0.7, epoch=2)
    assert shown(0.7) != shown(0.7, seed=2)
    untold = batch.with_metadata(0.0, 1, 1).targets
    assert untold[0] == batch.targets[0]
    assert untold[1][2] == batch.targets[1][2]  # nothing is known to be shown
