"""Demo run: every step of training, on the clips that come with the package.

It uses small real models (SmolLM2, Whisper tiny.en) and synthetic speech. It shows what the method
does, measured on voices that no model heard in training. It says nothing about people.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from time import monotonic
from typing import Final

from rellm_cache.config.recipes import load_recipe
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import Utterance, read_manifest
from rellm_cache.corpus.prepare import prepare
from rellm_cache.corpus.readers.base import Corpus
from rellm_cache.demo.figures import AnswerCounts, count_answers, ua_gain, ua_interval
from rellm_cache.demo.models import ensure_models
from rellm_cache.evaluation.predictions import PREDICTIONS, read_predictions
from rellm_cache.evaluation.report import REPORT
from rellm_cache.evaluation.run import EvaluationOptions, evaluate
from rellm_cache.evaluation.scores import Scores
from rellm_cache.extraction.run import extract
from rellm_cache.inference.generate import generate
from rellm_cache.inference.responders import Generation
from rellm_cache.metrics.intervals import Interval
from rellm_cache.planning.timing import EpochTimes, time_epochs
from rellm_cache.runs.shared_models import SharedModels
from rellm_cache.store.reader import FeatureStore
from rellm_cache.training.run import train

FOLDER: Final = Path(str(resources.files("rellm_cache.demo")))
SAMPLES = 6  # answers in the report
ANSWER_BATCH = 100  # 4-bit weights are unpacked once per batch and token
TIMED_STEPS = 5
# Clips that are shown, chosen before any of them was answered: voice, number and two emotions.
SHOWN: Final = (
    ("sam", 1, ("happy", "angry")),
    ("eve", 8, ("sad", "surprise")),
    ("liz", 15, ("angry", "sad")),
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Recognized:
    """Recognition of one run on unseen voices: UA by head and by LLM, and the other scores."""

    head: Interval
    llm: Interval | None
    scores: Scores


@dataclass(frozen=True)
class DemoReport:
    """Results of the demo."""

    runs: dict[str, Recognized]  # run folder → recognition
    gain: Interval  # UA of the heads with the emotion stream minus that without it
    counts: AnswerCounts  # over the answers to all test clips
    shown: list[tuple[Utterance, Generation]]  # pairs that differ in emotion alone, in order
    cache_bytes: int  # size of the demo's own stores
    epoch: EpochTimes  # time of some steps of the heads, with the cache and with live encoders
    run: Path  # folder of the speech LLM
    seconds: float  # of the whole demo

    @property
    def report(self) -> Path:
        """The HTML page of the speech LLM."""
        return self.run / REPORT


def run_demo(cache: Path, out: Path, say: Say) -> DemoReport:
    """Train on the embedded clips, answer clips of other voices, and score both.

    The converted models are in the folder `models` of `cache`. `out` gets manifests and runs; an
    earlier demo there is continued.
    """
    start = monotonic()
    # The recipes name models by hub id. This replaces the ids with local folders.
    os.environ["RELLM_MODELS"] = str(cache / "models")
    manifest, test = out / "manifest", out / "manifest" / "test.jsonl"
    recipes, models = demo_recipes(out), SharedModels()
    clips = {clip.id: clip for clip in embedded_clips()}

    with timed_step("models", say) as done:
        done(f"in {', '.join(str(path) for path in ensure_models(cache / 'models').values())}")
    with timed_step("prepare", say) as done:
        prepared = prepare(Corpus("demo", list(clips.values())), manifest)
        splits = ", ".join(f"{count} {split}" for split, count in prepared.kept.items())
        done(f"{60 * prepared.hours:.1f} minutes of speech, clips: {splits}")
    with timed_step("extract", say) as done:
        streams = extract(manifest, recipes["small"], cache)
        done(", ".join(f"{s.path.name}: {s.encoded} encoded, {s.present} present" for s in streams))
    for name, title in (
        ("heads", "train heads, both streams"),
        ("heads-speech-only", "train heads, speech stream alone"),
        ("small", "train speech LLM"),
    ):
        with timed_step(title, say) as done:
            trained = train(recipes[name], manifest, cache, out / name, models)
            done(f"{trained.steps} steps{_change(trained.untrained, trained.validation)}")
    with timed_step("generate", say) as done:
        answers = generate(
            out / "small",
            test,
            out / "responses.jsonl",
            cache,
            batch_size=ANSWER_BATCH,
            resources=models,
        )
        done(f"{len(answers)} answers in {out / 'responses.jsonl'}")
    with timed_step("evaluate", say) as done:
        scores = {
            name: evaluate(
                out / name,
                test,
                cache,
                EvaluationOptions(
                    samples=SAMPLES if name == "small" else 0, in_words=False, overwrite=True
                ),
                resources=models,
            )
            for name in recipes
        }
        done(f"{len(scores)} runs on {len(answers)} clips of unseen voices")
    with timed_step("time the cache", say) as done:
        epoch = time_epochs(
            recipes["heads"], manifest, cache, out / "timing", max_steps=TIMED_STEPS
        )
        done(f"{epoch.steps} steps of the heads, from the cache and with the encoders in the loop")

    predictions = {name: read_predictions(out / name / PREDICTIONS) for name in recipes}
    by_id = {answer.id: answer for answer in answers}
    return DemoReport(
        runs={
            name: Recognized(
                ua_interval(rows, "head"),
                ua_interval(rows, "llm") if scores[name].llm else None,
                scores[name],
            )
            for name, rows in predictions.items()
        },
        gain=ua_gain(predictions["heads"], predictions["heads-speech-only"], "head"),
        counts=count_answers(answers, clips),
        shown=[(clips[name], by_id[name]) for name in shown_ids()],
        cache_bytes=sum(FeatureStore(stream.path).nbytes for stream in streams),
        epoch=epoch,
        run=out / "small",
        seconds=monotonic() - start,
    )


def _change(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """The validation losses of the LLM before and after training, as text; "" without an LLM."""
    names = {"response_lm_loss": "responses", "emotion_lm_loss": "names of emotions"}
    shown = [f"{text} {before[k]:.2f} -> {after[k]:.2f}" for k, text in names.items() if k in after]
    return f", validation loss: {', '.join(shown)}" if shown else ""


@contextmanager
def timed_step(title: str, say: Say) -> Iterator[Say]:
    """Yield a function that takes a step's result; at the end, print result and duration."""
    start = monotonic()
    results: list[str] = []
    yield results.append
    say(f"{title}: {'; '.join(results)} ({monotonic() - start:.0f} s)")


def demo_recipes(out: Path) -> dict[str, Recipe]:
    """Run folder → recipe: two heads, and the speech LLM that starts from the first."""
    heads, small = FOLDER / "heads.toml", FOLDER / "small.toml"
    init_from = f'training.init_from="{(out / "heads").resolve()}"'
    return {
        "heads": load_recipe(heads),
        "heads-speech-only": load_recipe(heads, ("encoders.emotion=none",)),
        "small": load_recipe(small, (init_from,)),
    }


def shown_ids() -> list[str]:
    """Ids of the clips whose answers are shown, the two emotions of a sentence together."""
    return [
        f"demo/{voice}-{emotion}-{number}"
        for voice, number, emotions in SHOWN
        for emotion in emotions
    ]


def embedded_clips() -> list[Utterance]:
    """Utterances of the clips that come with the package."""
    return read_manifest(FOLDER / "clips" / "manifest.jsonl")
