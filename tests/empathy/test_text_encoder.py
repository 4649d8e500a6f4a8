"""Text encoder: cuts, frozen states, and trainable layers on top of them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import RobertaConfig, RobertaModel

from rellm_cache.empathy.text_encoder import TextEncoder, pad
from rellm_cache.errors import ConfigError

CPU = torch.device("cpu")
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
         "intermediate_size", "max_position_embeddings")  # fmt: skip
TEXT = "that sounds hard. what happened?"


@pytest.fixture(scope="module", params=["bert", "roberta"])
def encoder(
    request: pytest.FixtureRequest,
    text_encoder_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> TextEncoder:
    """The tiny BERT, and a RoBERTa of its sizes with its tokenizer."""
    if request.param == "bert":
        return TextEncoder(text_encoder_folder, CPU)
    folder = tmp_path_factory.mktemp("models") / "tiny-roberta"
    shutil.copytree(text_encoder_folder, folder)
    sizes = json.loads((folder / "config.json").read_text())
    torch.manual_seed(6)
    config = RobertaConfig(**{k: sizes[k] for k in SIZES}, pad_token_id=0, initializer_range=0.2)
    RobertaModel(config).save_pretrained(folder)
    return TextEncoder(folder, CPU)


def test_a_long_text_is_cut_and_marked(encoder: TextEncoder) -> None:
    whole, cut = encoder.tokenize(TEXT, 9), encoder.tokenize(TEXT, 6)
    assert (len(whole.ids), whole.cut, len(cut.ids), cut.cut) == (9, False, 6, True)
    assert whole.ids[:5] == cut.ids[:5]
    assert [TEXT[a:b] for a, b in cut.spans] == ["", "that", "sounds", "hard", ".", ""]


def test_states_do_not_depend_on_neighbours(encoder: TextEncoder) -> None:
    texts = [encoder.tokenize(t, 32) for t in (TEXT, "why?", "i am so sorry. " * 4)]
    for layer in (0, 2, -1):
        together = encoder.states(texts, layer)
        for text, states in zip(texts, together, strict=True):
            assert (states.shape, states.dtype) == ((len(text.ids), 16), torch.float16)
            torch.testing.assert_close(states, encoder.states([text], layer)[0])


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_trainable_layers_continue_from_frozen_states(encoder: TextEncoder, layers: int) -> None:
    text = encoder.tokenize(TEXT, 32)
    below = encoder.states([text], encoder.layers - layers)[0].float()[None]
    mask = torch.ones(below.shape[:2], dtype=torch.long)
    top = encoder.trainable_layers(layers).eval()
    found = top(inputs_embeds=below, attention_mask=mask).last_hidden_state[0]
    torch.testing.assert_close(found.half(), encoder.states([text], -1)[0], rtol=0, atol=4e-3)
    assert sum(p.numel() for p in top.parameters()) == layers * sum(
        p.numel() for p in encoder.model.encoder.layer[0].parameters()
    )


def test_the_whole_encoder_takes_ids_and_training_leaves_the_frozen_one_alone(
    encoder: TextEncoder,
) -> None:
    before = {name: p.clone() for name, p in encoder.model.named_parameters()}
    top = encoder.trainable_layers(-1)
    assert all(p.requires_grad for p in top.parameters())
    optimizer = torch.optim.SGD(top.parameters(), lr=1.0)
    ids = torch.tensor([encoder.tokenize(TEXT, 32).ids])
    top(input_ids=ids).last_hidden_state.sin().sum().backward()
    optimizer.step()
    assert not any(p.requires_grad for p in encoder.model.parameters())
    for name, parameter in encoder.model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_padding(encoder: TextEncoder) -> None:
    rows, mask = pad([torch.ones(2, 3), torch.ones(4, 3)])
    assert rows.shape == (2, 4, 3)
    assert mask.tolist() == [[True, True, False, False], [True] * 4]


def test_too_many_layers_or_tokens_are_refused(encoder: TextEncoder) -> None:
    with pytest.raises(ConfigError, match=r"trained_layers = 4: .* has 3"):
        encoder.trainable_layers(4)
    # RoBERTa's positions begin after that of padding (0): one token fewer than positions.
    most = 39 if isinstance(encoder.model, RobertaModel) else 40
    encoder.require_length(most)
    assert len(encoder.states([encoder.tokenize("why? " * 40, most)], -1)[0]) == most
    with pytest.raises(ConfigError, match=f"texts of {most + 1} tokens; it takes {most} at most"):
        encoder.require_length(most + 1)


def test_a_folder_without_a_text_encoder_is_refused(
    text_encoder_folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(text_encoder_folder, other)
    (other / "config.json").write_text(json.dumps({"model_type": "unheard-of"}))
    with pytest.raises(ConfigError, match="cannot load this model folder"):
        TextEncoder(other, CPU)


def test_missing_weights_are_named(text_encoder_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(text_encoder_folder, other)
    weights = load_file(other / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "pooler" not in k}, other / "model.safetensors")
    TextEncoder(other, CPU)
    weights = {k: v for k, v in weights.items() if "word_embeddings" not in k}
    save_file(weights, other / "model.safetensors")
    with pytest.raises(ConfigError, match=r"other: the checkpoint lacks .*word_embeddings"):
        TextEncoder(other, CPU)
