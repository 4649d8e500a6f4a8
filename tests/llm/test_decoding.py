"""Generation: greedy decoding in batches, sampling by seed, stopping at a reply limit."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rellm_cache.config.schema import LLMConfig
from rellm_cache.errors import ConfigError
from rellm_cache.llm.decoding import Decoder, Ending, Request, Sampling, continue_prompts
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm
from rellm_cache.llm.sentence_limit import ReplyLimit


@pytest.fixture(scope="module")
def llm(llm_folder: Path) -> FrozenLLM:
    return load_llm(LLMConfig(str(llm_folder), quantization="none"), torch.device("cpu"))


def test_a_greedy_answer_does_not_depend_on_the_batch(llm: FrozenLLM) -> None:
    prompts = [llm.embed(llm.chat.ids(text)) for text in ("Hello", "A much longer prompt", "x")]
    together = continue_prompts(llm, prompts, max_new_tokens=6)
    assert together == [continue_prompts(llm, [p], max_new_tokens=6)[0] for p in prompts]


def test_greedy_answers_are_those_of_the_model(llm: FrozenLLM) -> None:
    ids = list(llm.chat.ids("Hello"))
    for _ in range(5):
        logits = llm.model(torch.tensor([ids])).logits[0, -1]
        ids.append(int(logits.argmax()))
    expected = [i for i in ids[len(llm.chat.ids("Hello")) :] if i not in llm.chat.stop_ids]
    answer = continue_prompts(llm, [llm.embed(llm.chat.ids("Hello"))], max_new_tokens=5)[0]
    assert answer.text == llm.chat.tokenizer.decode(expected).strip()
    assert answer.early_stop == (len(expected) == 5)


def test_a_sampled_answer_depends_on_its_seed_alone(llm: FrozenLLM) -> None:
    prompts = [llm.embed(llm.chat.ids(text)) for text in ("Hello", "A much longer prompt")]
    both = continue_prompts(llm, prompts, 6, sampling=Sampling(2.0, [5, 7]))
    assert both[1] == continue_prompts(llm, prompts[1:], 6, sampling=Sampling(2.0, [7]))[0]
    assert both[1] != continue_prompts(llm, prompts[1:], 6, sampling=Sampling(2.0, [8]))[0]


def test_prompts_beyond_the_models_length_are_refused(llm: FrozenLLM) -> None:
    with pytest.raises(ConfigError, match=r"take 2049 positions.*prompts\.answer_tokens"):
        continue_prompts(llm, [torch.zeros(1100, llm.hidden_size)], max_new_tokens=949)


@pytest.fixture
def parrot(llm_folder: Path) -> FrozenLLM:
    """An LLM that repeats "No? No? No? ": each token leads to the next."""
    llm = load_llm(LLMConfig(str(llm_folder), quantization="none"), torch.device("cpu"))
    ids = llm.chat.tokenizer("No? ")["input_ids"]
    model = llm.model
    head = torch.zeros_like(llm.output_weight)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        for token, following in zip(ids, [*ids[1:], ids[0]], strict=True):
            head[following] = torch.nn.functional.normalize(llm.embed([token])[0], dim=0)
    model.lm_head.weight = torch.nn.Parameter(head, requires_grad=False)
    return llm


def test_generation_stops_when_every_row_has_passed_its_limit(parrot: FrozenLLM) -> None:
    prompts = [parrot.embed(parrot.chat.ids(text)) for text in (" ", "No")]
    free = continue_prompts(parrot, prompts, 16)
    assert [r.text for r in free] == ["No? No? No? No?", "? No? No? No? No"]
    assert all(r.early_stop for r in free)
    steps: list[int] = []
    parrot.model.model.register_forward_hook(lambda *_: steps.append(1))
    limited = continue_prompts(parrot, prompts, 60, limit=ReplyLimit(sentences=2))
    assert len(steps) == 9  # "No? No? N", one beyond the limit
    assert [r.text for r in limited] == ["No? No?", "? No?"]
    assert not any(r.early_stop for r in limited)


def test_a_reply_that_the_token_limit_cuts_is_marked(parrot: FrozenLLM) -> None:
    prompt = [parrot.embed(parrot.chat.ids(" "))]
    (reply,) = continue_prompts(parrot, prompt, 6, limit=ReplyLimit(sentences=2))
    assert (reply.text, reply.early_stop) == ("No? No", True)


def test_each_answer_has_its_own_limit(parrot: FrozenLLM) -> None:
    prompts = [parrot.embed(parrot.chat.ids(text)) for text in (" ", "No")]
    steps: list[int] = []
    parrot.model.model.register_forward_hook(lambda *_: steps.append(1))
    both = continue_prompts(parrot, prompts, 60, limit=ReplyLimit(after_question=True))
    assert [r.text for r in both] == ["No?", "?"]
    assert len(steps) == 5  # "No? N": the longer of both


TEXTS = ("Hello", "A much longer prompt", "x", "Why?", "Another one, of some length", "y z", "q")


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("slots", [1, 2, 3, 7, 20])
def test_slots_and_a_shared_prefix_change_no_answer(
    llm_folder: Path, slots: int, quantization: Any
) -> None:
    llm = load_llm(LLMConfig(str(llm_folder), quantization=quantization), torch.device("cpu"))
    system = llm.chat.ids("What every prompt begins with")
    prompts = [llm.chat.ids(text) for text in TEXTS]
    whole = [llm.embed((*system, *ids)) for ids in prompts]
    expected = [continue_prompts(llm, [prompt], 9)[0] for prompt in whole]
    assert len({answer.ids for answer in expected}) > 4
    decoder = Decoder(llm, Ending(9), slots, llm.prefix_kv(system))
    found = dict(decoder.answers(Request(llm.embed(ids)) for ids in prompts))
    assert [found[index] for index in range(len(TEXTS))] == expected


def test_answers_of_other_lengths_free_their_slots(parrot: FrozenLLM) -> None:
    calls: list[int] = []
    parrot.model.model.register_forward_pre_hook(
        lambda _, __, kwargs: calls.append(len(kwargs["inputs_embeds"])), with_kwargs=True
    )
    limit = ReplyLimit(after_question=True)
    requests = [Request(parrot.embed(parrot.chat.ids(t))) for t in (" ", "No", " ", "No")]
    found = dict(Decoder(parrot, Ending(60, limit), 2).answers(requests))
    assert [found[index].text for index in range(4)] == ["No?", "?", "No?", "?"]
    assert max(calls) == 2
    assert sum(calls) == 2 * 5 + 2 * 3  # no computation for an answer that has ended


def test_seeds_decide_samples_in_slots_too(llm: FrozenLLM) -> None:
    prompts = [llm.embed(llm.chat.ids(text)) for text in TEXTS]
    requests = [Request(prompt, seed=seed) for seed, prompt in enumerate(prompts)]
    found = dict(Decoder(llm, Ending(6, temperature=2.0), 3).answers(requests))
    for index, prompt in enumerate(prompts):
        sampling = Sampling(2.0, [index])
        assert [found[index]] == continue_prompts(llm, [prompt], 6, sampling=sampling)


def test_the_text_so_far_is_shown_after_each_token(parrot: FrozenLLM) -> None:
    prompts = [parrot.embed(parrot.chat.ids(text)) for text in (" ", "No")]
    seen: list[list[str]] = []
    limit = ReplyLimit(sentences=2)
    watched = continue_prompts(parrot, prompts, 60, limit=limit, watch=seen.append)
    assert watched == continue_prompts(parrot, prompts, 60, limit=limit)
    assert [texts[0] for texts in seen] == [
        "N", "No", "No?", "No?", "No? N", "No? No", "No? No?", "No? No?", "No? No?",
    ]  # fmt: skip
    assert seen[-1] == [reply.text for reply in watched]
    assert watched[0].ids == tuple(parrot.chat.tokenizer("No? No? N")["input_ids"])


def test_an_error_of_the_watcher_ends_the_decoding(parrot: FrozenLLM) -> None:
    prompt = [parrot.embed(parrot.chat.ids(" "))]

    def leave(texts: list[str]) -> None:
        if texts == ["No"]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        continue_prompts(parrot, prompt, 60, watch=leave)
    assert continue_prompts(parrot, prompt, 3)[0].text == "No?"


def test_no_prompt_gives_no_answer(llm: FrozenLLM) -> None:
    assert continue_prompts(llm, [], 6) == []


def test_settings_in_a_model_folder_do_not_steer_decoding(
    llm: FrozenLLM, llm_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(llm_folder, tmp_path / "steered")
    path = folder / "generation_config.json"
    ends = list(llm.chat.stop_ids)
    steering = {
        "num_beams": 3, "no_repeat_ngram_size": 1, "min_length": 50, "repetition_penalty": 9.0,
        "suppress_tokens": list(range(100)), "begin_suppress_tokens": list(range(99)),
        "bad_words_ids": [[n] for n in range(90)], "do_sample": True, "temperature": 9.0,
        "encoder_no_repeat_ngram_size": 1, "length_penalty": 3.0, "forced_eos_token_id": ends[0],
        "max_length": 3, "num_return_sequences": 3, "penalty_alpha": 0.6, "top_k": 4,
        "sequence_bias": [[[5], 50.0]], "stop_strings": ["a"], "output_scores": True,
        "exponential_decay_length_penalty": [1, 2.0], "return_dict_in_generate": True,
        "max_time": 1e-9, "prompt_lookup_num_tokens": 2, "guidance_scale": 3.0,
    }  # fmt: skip
    found = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(found | steering))
    steered = load_llm(LLMConfig(str(folder), quantization="none"), torch.device("cpu"))
    prompts = [llm.embed(llm.chat.ids(text)) for text in ("Hello", "A much longer prompt")]
    assert continue_prompts(steered, prompts, 12) == continue_prompts(llm, prompts, 12)
