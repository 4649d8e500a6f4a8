"""Rationales on tokens, and the order of batches."""

from pathlib import Path

import torch

from rellm_cache.empathy.epitome import Exchange
from rellm_cache.empathy.exchanges import rationale_labels, read_exchanges, shuffled_batches
from rellm_cache.empathy.settings import EmpathySettings
from rellm_cache.empathy.text_encoder import TextEncoder

TEXT = "that sounds hard. why? i am sorry"


def test_rationales_become_labels_of_tokens(text_encoder_folder: Path) -> None:
    encoder = TextEncoder(text_encoder_folder, torch.device("cpu"))
    tokens = encoder.tokenise(TEXT, 32)
    words = [TEXT[a:b] for a, b in tokens.spans]
    labels = rationale_labels(TEXT, ["sounds hard.", "sorry", "never said"], tokens)
    assert [w for w, label in zip(words, labels, strict=True) if label] == [
        "sounds", "hard", ".", "sorry",
    ]  # fmt: skip
    # Beyond the cut there is nothing to label; special tokens never are.
    assert rationale_labels(TEXT, ["sorry"], encoder.tokenise(TEXT, 6)).sum() == 0
    assert rationale_labels(TEXT, [TEXT], tokens).tolist() == [0, *[1] * (len(words) - 2), 0]


def test_what_is_cut_is_told(text_encoder_folder: Path) -> None:
    encoder = TextEncoder(text_encoder_folder, torch.device("cpu"))
    exchanges = [Exchange("", "", "why?", TEXT), Exchange("", "", TEXT, "why?")]
    readings = list(read_exchanges(exchanges, encoder, EmpathySettings(), 5))
    assert [(r.post_cut, r.reply_cut) for r in readings] == [(False, True), (True, False)]
    assert [r.words for r in readings] == ["that sounds hard", "why?"]
    assert readings[0].response.tolist()[0] == encoder.tokenizer.cls_token_id
    assert readings[0].seeker.shape == (4, 16)


def test_batches_hold_everything_once_in_an_order_of_their_seed() -> None:
    lengths = [i % 7 for i in range(50)]
    batches = shuffled_batches(lengths, 4, seed=3)
    assert sorted(i for batch in batches for i in batch) == list(range(50))
    assert batches == shuffled_batches(lengths, 4, seed=3)
    assert batches != shuffled_batches(lengths, 4, seed=4)
    assert max(max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in batches) <= 3
