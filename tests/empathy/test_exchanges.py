"""Encoded exchanges: rationale labels, cuts, and the order of batches."""

from pathlib import Path

import torch

from rellm_cache.empathy.epitome import Exchange
from rellm_cache.empathy.exchanges import encode_exchanges, rationale_labels, shuffled_batches
from rellm_cache.empathy.settings import EmpathySettings
from rellm_cache.empathy.text_encoder import TextEncoder

TEXT = "that sounds hard. why? i am sorry"


def test_rationales_become_labels_of_tokens(text_encoder_folder: Path) -> None:
    encoder = TextEncoder(text_encoder_folder, torch.device("cpu"))
    tokens = encoder.tokenize(TEXT, 32)
    words = [TEXT[a:b] for a, b in tokens.spans]
    labels = rationale_labels(TEXT, ["sounds hard.", "sorry", "never said"], tokens)
    assert [w for w, label in zip(words, labels, strict=True) if label] == [
        "sounds", "hard", ".", "sorry",
    ]  # fmt: skip
    # Nothing is labeled beyond the cut, and special tokens never are.
    assert rationale_labels(TEXT, ["sorry"], encoder.tokenize(TEXT, 6)).sum() == 0
    assert rationale_labels(TEXT, [TEXT], tokens).tolist() == [0, *[1] * (len(words) - 2), 0]


def test_a_reply_without_rationale_is_all_rationale_in_epitomes_code(
    text_encoder_folder: Path,
) -> None:
    encoder = TextEncoder(text_encoder_folder, torch.device("cpu"))
    tokens = encoder.tokenize(TEXT, 32)
    assert rationale_labels(TEXT, [], tokens, every=True).tolist() == [1] * len(tokens.ids)
    assert rationale_labels(TEXT, [], tokens).sum() == 0
    for parts in (["sorry"], ["never said"]):
        assert torch.equal(
            rationale_labels(TEXT, parts, tokens, every=True), rationale_labels(TEXT, parts, tokens)
        )


def test_texts_and_rationales_are_lower_cased_together(text_encoder_folder: Path) -> None:
    encoder = TextEncoder(text_encoder_folder, torch.device("cpu"))
    loud = Exchange("", "", "Why?", TEXT.upper(), {"ER": 1}, {"ER": ("SOUNDS HARD.",)})
    calm = Exchange("", "", "why?", TEXT, {"ER": 1}, {"ER": ("sounds hard.",)})
    settings = EmpathySettings(lower_case=True)
    (found,) = encode_exchanges([loud], encoder, settings, 32)
    (expected,) = encode_exchanges([calm], encoder, EmpathySettings(), 32)
    assert torch.equal(found.seeker, expected.seeker)
    assert torch.equal(found.response, expected.response)
    assert torch.equal(found.rationales["ER"], expected.rationales["ER"])
    assert found.words == TEXT


def test_cut_texts_are_marked(text_encoder_folder: Path) -> None:
    encoder = TextEncoder(text_encoder_folder, torch.device("cpu"))
    exchanges = [Exchange("", "", "why?", TEXT), Exchange("", "", TEXT, "why?")]
    encoded = list(encode_exchanges(exchanges, encoder, EmpathySettings(), 5))
    assert [(e.post_cut, e.reply_cut) for e in encoded] == [(False, True), (True, False)]
    assert [e.words for e in encoded] == ["that sounds hard", "why?"]
    assert encoded[0].response.tolist()[0] == encoder.tokenizer.cls_token_id
    assert encoded[0].seeker.shape == (4, 16)


def test_batches_contain_every_index_once_in_an_order_set_by_the_seed() -> None:
    lengths = [i % 7 for i in range(50)]
    batches = shuffled_batches(lengths, 4, seed=3)
    assert sorted(i for batch in batches for i in batch) == list(range(50))
    assert batches == shuffled_batches(lengths, 4, seed=3)
    assert batches != shuffled_batches(lengths, 4, seed=4)
    assert max(max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in batches) <= 3
