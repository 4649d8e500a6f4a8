"""Layer mixing: values and gradients from the definition, alone and in a batch."""

import pytest
import torch
from torch.nn import functional as F

from rellm_cache.data.streams import QuantizationParams
from rellm_cache.model.layer_mix import LayerMix


def reference(mix: LayerMix, frames: torch.Tensor) -> torch.Tensor:
    """The weighted sum of SUPERB in plain torch: layers first, then one sum over them."""
    assert mix.weights is not None
    layers = torch.stack(frames.float().chunk(mix.layers, dim=-1))  # (L, B, T, D)
    if mix.layer_norm:
        layers = F.layer_norm(layers, (layers.shape[-1],))
    return (mix.weights.softmax(0).view(-1, 1, 1, 1) * layers).sum(0)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_the_weighted_sum_and_its_gradient(layer_norm: bool) -> None:
    torch.manual_seed(0)
    mix = LayerMix(3, 24, softmax=True, layer_norm=layer_norm)
    assert mix.weights is not None
    torch.nn.init.normal_(mix.weights)
    frames = (torch.randn(4, 9, 24) * torch.arange(1, 25)).half()
    wanted, found = reference(mix, frames), mix(frames)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted)
    factors = torch.randn_like(wanted)
    (own,) = torch.autograd.grad((found * factors).sum(), mix.weights)
    (expected,) = torch.autograd.grad((wanted * factors).sum(), mix.weights)
    torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mix(frames[1:2, :5])[0], found[1, :5])  # alone, shorter


def test_layers_are_equal_at_first_and_one_can_win() -> None:
    frames = torch.randn(2, 3, 8)
    mix = LayerMix(2, 8, softmax=True, layer_norm=False)
    torch.testing.assert_close(mix(frames), (frames[..., :4] + frames[..., 4:]) / 2)
    with torch.no_grad():
        mix.weights = torch.nn.Parameter(torch.tensor([-50.0, 50.0]))
    torch.testing.assert_close(mix(frames), frames[..., 4:])
    assert mix.layer_weights.tolist() == pytest.approx([0, 1])


def test_layers_side_by_side_are_normalized_one_by_one() -> None:
    torch.manual_seed(0)
    frames = torch.randn(2, 3, 8) * 5 + 3
    mix = LayerMix(2, 8, softmax=False, layer_norm=True)
    assert (mix.output_size, list(mix.parameters())) == (8, [])
    for found, given in zip(mix(frames).split(4, -1), frames.split(4, -1), strict=True):
        torch.testing.assert_close(found, F.layer_norm(given, (4,)))


def test_int8_layers_are_mixed_as_their_values() -> None:
    torch.manual_seed(0)
    params = QuantizationParams(torch.rand(8) + 0.1, torch.randn(8))
    stored = torch.randint(-127, 128, (2, 5, 8), dtype=torch.int8)
    mix = LayerMix(2, 8, softmax=True, layer_norm=True)
    torch.testing.assert_close(mix(stored, params), mix(stored * params.scale + params.mean))


def test_under_autocast_the_sum_keeps_its_precision() -> None:
    torch.manual_seed(0)
    frames = torch.randn(2, 5, 8).half()
    mix = LayerMix(2, 8, softmax=True, layer_norm=False)
    with torch.autocast("cpu", torch.bfloat16):
        found = mix(frames)
    torch.testing.assert_close(found, mix(frames), rtol=0, atol=0)


def test_no_float32_copy_of_all_layers_is_kept() -> None:
    kept: list[torch.Tensor] = []
    frames = torch.randn(2, 50, 64).half()
    mix = LayerMix(8, 64, softmax=True, layer_norm=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        mix(frames)
    large = {t.data_ptr(): t.nbytes for t in kept if t.numel() > 8}
    assert large == {frames.data_ptr(): frames.nbytes}


def test_a_size_that_the_layers_do_not_divide() -> None:
    with pytest.raises(ValueError, match="10 values in a frame: expected a multiple of 3 layers"):
        LayerMix(3, 10, softmax=True, layer_norm=False)
