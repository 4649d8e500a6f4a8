"""Bi-encoder: batch independence, attention, losses and class weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from rellm_cache.empathy.bi_encoder import (
    IGNORED,
    EmpathyScorer,
    ExchangeBatch,
    class_weights,
    pool,
    scorer_loss,
)
from rellm_cache.empathy.epitome import Exchange
from rellm_cache.empathy.exchanges import collate_exchanges, encode_exchanges
from rellm_cache.empathy.settings import EmpathySettings
from rellm_cache.empathy.text_encoder import TextEncoder

CPU = torch.device("cpu")
BASE = EmpathySettings(long_tokens=32, tokens=16, training_tokens=16)
NAMES = ("ER", "EX")
EXCHANGES = [
    Exchange("a", "1", "it sounds hard", "i am so sorry.", {"ER": 2, "EX": 0},
             {"ER": ("so sorry",), "EX": ()}),
    Exchange("b", "2", "it sounds hard , it sounds hard", "why?", {"EX": 1}, {"EX": ("why?",)}),
]  # fmt: skip


@pytest.fixture(scope="module")
def encoder(text_encoder_folder: Path) -> TextEncoder:
    return TextEncoder(text_encoder_folder, CPU)


def make(encoder: TextEncoder, settings: EmpathySettings) -> tuple[EmpathyScorer, ExchangeBatch]:
    torch.manual_seed(1)
    encoded = list(encode_exchanges(EXCHANGES, encoder, settings, 16))
    return EmpathyScorer(encoder, settings, NAMES).eval(), collate_exchanges(encoded, NAMES)


@pytest.mark.parametrize(
    "settings",
    [
        BASE,
        replace(BASE, trained_layers=1, pooling="statistics"),
        replace(BASE, trained_layers=2, seeker="shared", pooling="mean"),
        replace(BASE, seeker="shared"),
        replace(BASE, trained_layers=0),
    ],
    ids=["published", "one layer", "shared, two layers", "shared", "heads alone"],
)
def test_an_exchange_is_scored_alone_as_in_a_batch(
    encoder: TextEncoder, settings: EmpathySettings
) -> None:
    scorer, batch = make(encoder, settings)
    together = scorer(batch)
    for row, exchange in enumerate(EXCHANGES):
        encoded = list(encode_exchanges([exchange], encoder, settings, 16))
        alone = scorer(collate_exchanges(encoded, NAMES))
        for name in NAMES:
            torch.testing.assert_close(alone.levels[name][0], together.levels[name][row])
            length = len(encoded[0].response)
            torch.testing.assert_close(
                alone.rationales[name][0], together.rationales[name][row, :length]
            )


def test_the_score_of_a_reply_depends_on_its_post(encoder: TextEncoder) -> None:
    scorer, batch = make(encoder, BASE)
    other = replace(batch, seeker=batch.seeker.flip(0), seeker_mask=batch.seeker_mask.flip(0))
    assert not torch.allclose(scorer(batch).levels["ER"], scorer(other).levels["ER"])


def test_every_trained_parameter_gets_a_gradient(encoder: TextEncoder) -> None:
    settings = replace(BASE, trained_layers=1, pooling="statistics")
    scorer, batch = make(encoder, settings)
    weights = dict.fromkeys(NAMES, torch.ones(3))
    scorer_loss(scorer(batch), batch, weights, settings).backward()
    assert [n for n, p in scorer.named_parameters() if p.grad is None] == []


def test_the_loss_is_epitomes_over_judged_exchanges(encoder: TextEncoder) -> None:
    scorer, batch = make(encoder, BASE)
    outputs, weights = scorer(batch), {n: torch.tensor([1.0, 2.0, 3.0]) for n in NAMES}
    assert batch.levels["ER"].tolist() == [2, IGNORED]
    expected = 3 * cross_entropy(outputs.levels["ER"][:1], torch.tensor([2]))
    each = cross_entropy(outputs.levels["EX"], torch.tensor([0, 1]), reduction="none")
    expected = expected + (each[0] + 2 * each[1]) / 2
    for name in NAMES:
        labels = batch.rationales[name].flatten()
        judged = labels != IGNORED
        logits = outputs.rationales[name].flatten(0, 1)
        expected = expected + 0.5 * cross_entropy(logits[judged], labels[judged])
    torch.testing.assert_close(scorer_loss(outputs, batch, weights, BASE), expected)


def test_a_mechanism_without_judged_exchanges_adds_no_loss(encoder: TextEncoder) -> None:
    settings = replace(BASE, trained_layers=1)
    scorer, _ = make(encoder, settings)
    second = list(encode_exchanges(EXCHANGES[1:], encoder, settings, 16))
    batch = collate_exchanges(second, NAMES)
    weights = dict.fromkeys(NAMES, torch.ones(3))
    scorer_loss(scorer(batch), batch, weights, settings).backward()
    assert scorer.level_heads["ER"][1].weight.grad is None
    assert scorer.level_heads["EX"][1].weight.grad is not None


def test_pooling_ignores_padding() -> None:
    states = torch.tensor([[[1.0], [3.0], [100.0]]])
    mask = torch.tensor([[True, True, False]])
    assert pool(states, mask, "first").tolist() == [[1.0]]
    assert pool(states, mask, "mean").tolist() == [[2.0]]
    assert pool(states, mask, "statistics").tolist() == [[1.0, 2.0, 3.0]]


def test_rare_levels_weigh_more() -> None:
    levels = [0] * 8 + [1] * 2
    assert class_weights(levels, 0).tolist() == [1, 1, 1]
    balanced = class_weights(levels, 1)
    assert (8 * balanced[0], 2 * balanced[1], balanced[2]) == pytest.approx((5, 5, 1))
    half = class_weights(levels, 0.5)
    assert half[1] / half[0] == pytest.approx(2)
    assert 8 * half[0] + 2 * half[1] == pytest.approx(10)
