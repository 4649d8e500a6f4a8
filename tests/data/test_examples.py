"""Examples from utterances: labels as indices, answers as token ids."""

from dataclasses import replace

import pytest
import torch

from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.data.batch import IGNORED
from rellm_cache.data.examples import (
    describe_missing_labels,
    emotion_index,
    label_ids,
    make_examples,
)
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm

END = "<|im_end|>\n<|endoftext|>"
WHOLE = Utterance("a", "a.wav", emotion="happy", vad=(0.1, 0.2, 0.3), response="Great!")
CUT = Utterance("b", "b.wav", emotion="calm", response="Well, I", early_stop=True)
BARE = Utterance("c", "c.wav")


@pytest.fixture
def llm(recipe: Recipe) -> FrozenLLM:
    assert recipe.llm is not None
    return load_llm(recipe.llm, torch.device("cpu"))


def test_an_example_has_labels_and_answers(recipe: Recipe, llm: FrozenLLM) -> None:
    whole, cut, bare = make_examples([WHOLE, CUT, BARE], recipe, llm)
    assert (whole.id, whole.emotion, whole.vad) == ("a", 1, (0.1, 0.2, 0.3))
    decode = llm.chat.tokenizer.decode
    assert [(t.task, decode(t.ids)) for t in whole.targets] == [
        ("response_lm", f"Great!{END}"),
        ("emotion_lm", f"happy{END}"),
    ]
    # Cut by the token limit: no end tokens. Calm is not an emotion of the heads.
    assert [(t.task, decode(t.ids)) for t in cut.targets] == [("response_lm", "Well, I")]
    assert (cut.emotion, bare.emotion, bare.targets) == (IGNORED, IGNORED, ())


def test_a_loss_of_weight_zero_has_no_targets(recipe: Recipe, llm: FrozenLLM) -> None:
    recognition = replace(recipe, losses=replace(recipe.losses, response_lm=0.0))
    (example,) = make_examples([WHOLE], recognition, llm)
    assert [t.task for t in example.targets] == ["emotion_lm"]
    assert make_examples([WHOLE], recipe, None)[0].targets == ()


def test_labels_are_complete_answers(recipe: Recipe, llm: FrozenLLM) -> None:
    texts = [llm.chat.tokenizer.decode(ids) for ids in label_ids(recipe.heads.emotions, llm)]
    assert texts == [f"{name}{END}" for name in recipe.heads.emotions]
    assert emotion_index(WHOLE, recipe.heads.emotions) == 1


def test_missing_labels_are_described(recipe: Recipe) -> None:
    assert describe_missing_labels([WHOLE], recipe) == []
    assert describe_missing_labels([CUT, BARE], recipe) == [
        "1 of 2 clips are 'calm', which heads.emotions leaves out",
        "1 of 2 clips have no response; `rellm respond` makes them",
    ]
    assert describe_missing_labels([WHOLE, replace(WHOLE, vad_source="pseudo")], recipe) == [
        "1 of 2 clips have pseudo dimensions, predicted by the emotion encoder: scores against "
        "them do not measure agreement with people"
    ]
