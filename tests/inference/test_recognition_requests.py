"""Recognition requests: several wordings, orders of the options, calibration by an empty speech."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rellm_cache.config.schema import PromptsConfig, Recipe, TextConfig
from rellm_cache.errors import ConfigError
from rellm_cache.evaluation.run import EvaluationOptions, evaluate
from rellm_cache.inference.recognition_requests import (
    Likelihoods,
    Requests,
    empty_likelihoods,
    score_requests,
)
from rellm_cache.inference.responders import SpeechResponder
from rellm_cache.llm.packed_rows import pack
from rellm_cache.runs.weights import load_run
from rellm_cache.training.run import train

NAMES = ("happy", "sad")
WORDINGS = ("Tone {options}? {speech}", "{options}: {speech}")


def test_probabilities_are_averaged_over_requests_and_not_likelihoods() -> None:
    shares = np.array([[[0.999, 0.001]], [[0.2, 0.8]], [[0.2, 0.8]]])  # (W, O, C)
    found = Likelihoods(np.log(shares)[None] - 5, None)
    np.testing.assert_allclose(found.probabilities[0], shares)
    assert found.likeliest.tolist() == [1]  # means 0.47 and 0.53
    assert np.log(shares).sum((0, 1)).argmax() == 0


def test_calibration_divides_by_the_probabilities_after_an_empty_speech() -> None:
    speech = np.log([[[[0.6, 0.4]]], [[[0.9, 0.1]]]])  # (N, W, O, C)
    found = Likelihoods(speech, np.log([[[0.8, 0.2]]]))
    np.testing.assert_allclose(found.probabilities[0, 0, 0], [0.75 / 2.75, 2 / 2.75])
    assert found.likeliest.tolist() == [1, 0]
    scores = score_requests(found, np.array([1, 0]), NAMES)
    assert scores is not None
    assert (scores.plain, scores.uncalibrated, scores.wordings) == (0.5, 0.5, (1.0,))


def test_scores_by_wording_and_order() -> None:
    right, wrong = [0.9, 0.1], [0.05, 0.95]
    speech = np.log([[[right, wrong], [right, right]], [[right, right], [right, right]]])
    scores = score_requests(Likelihoods(speech, None), np.array([0, 0]), NAMES)
    assert scores is not None
    assert scores.plain == 1.0
    assert scores.wordings == (0.5, 1.0)
    assert scores.orders == (1.0, 0.5)
    assert scores.spread == 0.5
    assert scores.uncalibrated is None
    assert score_requests(Likelihoods(speech, None), np.array([-100, -100]), NAMES) is None


def test_orders_start_with_the_papers_and_are_all_different() -> None:
    prompts = PromptsConfig(recognition=WORDINGS)
    first, second = prompts.recognition_requests(("happy", "sad", "neutral"), 4)
    assert (
        first[0]
        == "Tone neutral, sad, or happy? {speech}"
        == prompts.recognition_of(("happy", "sad", "neutral"))
    )
    assert second[0] == "neutral, sad, or happy: {speech}"
    assert len(set(first)) == len(set(second)) == 4
    assert [a[5:].partition("?")[0] for a in first] == [b.partition(":")[0] for b in second]
    assert len(prompts.recognition_requests(NAMES, 9)[0]) == 2  # there are no more
    assert prompts.recognition_requests(("happy", "sad", "neutral"), 4) == [first, second]
    with pytest.raises(ConfigError, match=r"3 orders of the options: expected \{options\} in prom"):
        Requests.of(PromptsConfig(recognition="Tone? {speech}"), NAMES, 3, False)


@pytest.fixture
def run(corpus: Path, cache: Path, quick: Recipe, tmp_path: Path) -> Path:
    prompts = replace(quick.prompts, recognition=WORDINGS)
    one_epoch = replace(quick.training, epochs=1)
    train(replace(quick, prompts=prompts, training=one_epoch), corpus, cache, tmp_path / "run")
    return tmp_path / "run"


def test_evaluation_averages_wordings_and_orders_and_computes_them_once(
    run: Path, corpus: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = corpus / "test.jsonl"
    asked = EvaluationOptions(1, orders=2, calibrate=True)
    scores = evaluate(run, test, cache, asked)
    assert scores.llm is not None
    found = scores.llm.requests
    assert found is not None
    assert len(found.wordings) == len(found.orders) == 2
    assert found.uncalibrated is not None
    rows = [json.loads(line) for line in (run / "evaluated.jsonl").read_text().splitlines()][:2]
    shape = np.array([row["likelihoods"]["values"] for row in rows]).shape
    assert shape == (2, 2, 2, 5)
    likelihoods = Likelihoods(
        np.array([row["likelihoods"]["values"] for row in rows]),
        np.array(rows[0]["empty_likelihoods"]["values"]),
    )
    with (run / "predictions.csv").open() as file:
        predicted = [row["llm"] for row in csv.DictReader(file)]
    names = ("neutral", "happy", "angry", "sad", "surprise")
    assert predicted == [names[i] for i in likelihoods.likeliest]
    first = np.array([row["likelihoods"]["values"][0][0] for row in rows]).argmax(1)
    assert [row["likely"] for row in rows] == [names[i] for i in first]
    assert "UA of the first wording" in (run / "report.html").read_text()

    monkeypatch.setattr(SpeechResponder, "__init__", lambda *_: pytest.fail("computed again"))
    assert evaluate(run, test, cache, asked).llm == scores.llm
    plain = evaluate(run, test, cache, EvaluationOptions(1, orders=2))
    assert plain.llm is not None
    assert plain.llm.requests is not None
    assert plain.llm.requests.uncalibrated is None


def test_an_empty_speech_is_the_request_without_speech(
    run: Path, corpus: Path, cache: Path
) -> None:
    recipe, model = load_run(run, torch.device("cpu"))
    llm = model.llm
    assert llm is not None
    requests = Requests.of(recipe.prompts, model.emotions, 1, True)
    found = empty_likelihoods(model, recipe.prompts, requests)
    assert found.shape == (2, 1, 5)
    text = requests.texts[1][0].replace("{speech}", "")
    answer = llm.chat.ids("happy") + llm.chat.end_ids
    ids = llm.chat.text_prompt(recipe.prompts.plain_system, text)
    row = pack([llm.segment(ids=ids, answer=answer)])
    with torch.inference_mode():
        logits = llm.hidden_states(row)[row.predictors] @ llm.output_weight.T
    expected = logits.log_softmax(-1).gather(1, row.answers[:, None]).sum()
    torch.testing.assert_close(found[1, 0, 1], expected, rtol=1e-4, atol=1e-4)


def test_text_models_are_asked_in_all_wordings_too(
    quick: Recipe, corpus: Path, tmp_path: Path
) -> None:
    prompts = replace(quick.prompts, recognition=WORDINGS)
    reads = replace(quick, name="reads", text=TextConfig(), prompts=prompts)
    train(reads, corpus, tmp_path, tmp_path / "run")
    asked = EvaluationOptions(0, in_words=False, calibrate=True)
    scores = evaluate(tmp_path / "run", corpus / "test.jsonl", tmp_path, asked)
    assert scores.llm is not None
    assert scores.llm.requests is not None
    assert len(scores.llm.requests.wordings) == 2
