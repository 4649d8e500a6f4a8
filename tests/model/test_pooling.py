"""Pooling over time: values from the definition, and outputs that do not depend on the batch."""

import pytest
import torch
from torch.nn import functional as F

from rellm_cache.config.schema import HeadsConfig
from rellm_cache.model.heads import AuxiliaryHeads
from rellm_cache.model.pooling import Pooling, PoolingKind

KINDS: tuple[PoolingKind, ...] = ("mean", "statistics", "attention", "attentive_statistics")


def randomized(pooling: Pooling) -> Pooling:
    """With attention that is not uniform."""
    for parameter in pooling.parameters():
        torch.nn.init.normal_(parameter)
    return pooling


@pytest.mark.parametrize("projection", [0, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_alone_and_in_a_batch(kind: PoolingKind, projection: int) -> None:
    torch.manual_seed(0)
    pooling = randomized(Pooling(kind, 8, projection))
    lengths = torch.tensor([3, 9, 1])
    frames = torch.randn(3, 9, 8)  # whatever lies beyond a length must not matter
    together = pooling(frames, lengths)
    assert together.shape == (3, pooling.output_size)
    for index, length in enumerate(lengths.tolist()):
        alone = pooling(frames[index : index + 1, :length], lengths[index : index + 1])
        torch.testing.assert_close(together[index], alone[0], rtol=0, atol=1e-5)


def test_pooling_is_what_it_says() -> None:
    torch.manual_seed(0)
    frames = torch.randn(1, 6, 4)
    length = torch.tensor([6])
    mean, deviation = frames[0].mean(0), (frames[0].var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(Pooling("mean", 4)(frames, length)[0], mean)
    both = torch.cat([mean, deviation])
    torch.testing.assert_close(Pooling("statistics", 4)(frames, length)[0], both)

    attention = randomized(Pooling("attention", 4))
    assert attention.attention is not None
    weights = (frames[0] @ attention.attention.query / 2).softmax(0)  # (6,)
    torch.testing.assert_close(attention(frames, length)[0], weights @ frames[0])

    attentive = randomized(Pooling("attentive_statistics", 4, projection=3))
    scorer, projection = attentive.attention, attentive.projection
    assert scorer is not None
    assert scorer.hidden is not None
    assert projection is not None
    inner = F.gelu(projection(frames[0]))  # (6, 3)
    weights = (scorer.hidden(inner).tanh() @ scorer.query / 8).softmax(0)  # 64 hidden units
    mean = weights @ inner
    deviation = (weights @ (inner - mean).square() + 1e-5).sqrt()
    torch.testing.assert_close(attentive(frames, length)[0], torch.cat([mean, deviation]))


@pytest.mark.parametrize(
    ("learned", "plain"), [("attention", "mean"), ("attentive_statistics", "statistics")]
)
def test_attention_starts_with_equal_weights_and_learns_others(
    learned: PoolingKind, plain: PoolingKind
) -> None:
    torch.manual_seed(0)
    frames, lengths = torch.randn(2, 7, 4), torch.tensor([7, 4])
    pooling = Pooling(learned, 4)
    pooled = pooling(frames, lengths)
    torch.testing.assert_close(pooled, Pooling(plain, 4)(frames, lengths))
    pooled[:, 0].sum().backward()
    assert pooling.attention is not None
    assert pooling.attention.query.grad is not None
    assert pooling.attention.query.grad.abs().max() > 1e-4


def test_under_autocast_deviations_keep_their_precision() -> None:
    torch.manual_seed(0)
    pooling = Pooling("attentive_statistics", 8)
    frames, lengths = torch.randn(2, 50, 8) * 0.01 + 10, torch.tensor([50, 30])
    expected = pooling(frames, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        found = pooling(frames, lengths)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_heads_without_projection_have_the_weights_of_before() -> None:
    """Names, shapes and random start of published runs, which loaded weights and seeds rely on."""
    torch.manual_seed(3)
    heads = AuxiliaryHeads(HeadsConfig(pooling="statistics"), 6)
    torch.manual_seed(3)
    category = torch.nn.Linear(12, 5, bias=False)
    assert list(heads.state_dict()) == ["category.weight", "dimensions.weight"]
    assert torch.equal(heads.category.weight, category.weight)


def test_a_frozen_head_keeps_the_pooling_that_it_reads() -> None:
    config = HeadsConfig(pooling="attention", projection=4, freeze=("emotion",))
    heads = AuxiliaryHeads(config, 6)
    trained = [name for name, p in heads.named_parameters() if p.requires_grad]
    assert trained == ["dimensions.weight"]
