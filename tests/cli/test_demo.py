"""rellm demo: what it prints."""

from pathlib import Path

import pytest

from rellm_cache.cli.demo import show
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.demo.figures import AnswerCounts
from rellm_cache.demo.run import DemoReport, Recognized
from rellm_cache.evaluation.scores import Scores
from rellm_cache.inference.responders import Generation
from rellm_cache.metrics.intervals import Interval
from rellm_cache.planning.timing import EpochTimes
from rellm_cache.runs.provenance import DataSummary
from rellm_cache.training.validation import HeadScores


def made_report() -> DemoReport:
    data = DataSummary(200, 0.1, 4, {"demo": 200}, {"test": 200}, {"sad": 200}, {"made": 200}, "")
    head = HeadScores(None, {"arousal": 0.81, "dominance": 0.72, "valence": 0.63})
    scores = Scores(data, head, {}, None, None, {})

    def ua(value: float) -> Interval:
        return Interval(value, value - 0.06, value + 0.06, 0.95)

    said = {"happy": "How wonderful!", "sad": "I am so sorry."}
    return DemoReport(
        runs={
            "heads": Recognized(ua(0.7), None, scores),
            "heads-speech-only": Recognized(ua(0.6), None, scores),
            "small": Recognized(ua(0.68), ua(0.65), scores),
        },
        gain=Interval(0.1, 0.04, 0.16, 0.95),
        counts=AnswerCounts(answers=200, cut=1, repeating=3, pairs=400, different=300),
        shown=[
            (
                Utterance(emotion, "a.ogg", text="It rains.", emotion=emotion, speaker="sam"),
                Generation(emotion, "a.ogg", "It rains.", response, early_stop=False),
            )
            for emotion, response in said.items()
        ],
        cache_bytes=40_000_000,
        epoch=EpochTimes(cached=0.5, live=10.0, steps=5),
        run=Path("runs/demo/small"),
        seconds=250.4,
    )


def test_shows_intervals_answers_and_the_next_command(capsys: pytest.CaptureFixture[str]) -> None:
    show(made_report())
    printed = " ".join(capsys.readouterr().out.split())
    for text in (
        "heads, speech + emotion stream 70.0 % 64 to 76 0.81 0.72 0.63",
        "heads, speech stream alone 60.0 % 54 to 66",
        "emotion named by its frozen LLM 65.0 % 59 to 71",
        "gain by the emotion stream (heads) +10.0 % +4 to +16",
        'sam says "It rains." happy How wonderful! sad I am so sorry.',
        "Of 200 answers 3 repeat themselves and 1 are cut. In 75.0 % of 400 pairs",
        "Stores of the demo: 40.0 MB; 5 steps of the heads: "
        "0.5 s from the cache, 10.0 s with the encoders in the loop (20 times)",
        "Done in 250 s",
        "Report: runs/demo/small/report.html",
    ):
        assert text in printed
    assert printed.endswith("Speak to it: rellm serve runs/demo/small")
