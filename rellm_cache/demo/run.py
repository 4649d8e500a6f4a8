"""Demo run: every step of the workflow on the clips that come with the package.

It uses small real models (SmolLM2, Whisper tiny.en) and synthetic speech. It shows that everything
works, and the effect of the cache and the emotion stream. It does not measure the method's quality.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from time import monotonic

from rellm_cache.annotation.responses import respond
from rellm_cache.cache_admin.info import cache_info
from rellm_cache.config.recipes import load_recipe
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import Utterance, read_manifest
from rellm_cache.corpus.prepare import prepare
from rellm_cache.corpus.readers.base import Corpus
from rellm_cache.demo.models import ensure_models
from rellm_cache.evaluation.run import EvaluationOptions, evaluate
from rellm_cache.evaluation.scores import Scores
from rellm_cache.extraction.run import extract
from rellm_cache.inference.generate import generate
from rellm_cache.inference.responders import Generation
from rellm_cache.planning.timing import EpochTimes, time_epochs
from rellm_cache.training.run import train

EMOTIONS = 'heads.emotions=["neutral", "happy", "angry", "sad"]'

# The demo's settings were chosen with this schedule and without weight averaging.
SCHEDULE = ('training.schedule="cosine"', "training.weight_averaging=0.0")

# Two epochs and short answers are enough to see the response loss fall and the answers change.
# Recognition examples would double the time, and two epochs do not teach the LLM any emotion.
QUICK = (
    "losses.emotion_lm=0.0",
    "training.epochs=2",
    "training.learning_rate=1e-3",
    "training.warmup_steps=4",
    "prompts.answer_tokens=32",
)
SAMPLES = 4
ANSWER_BATCH = 20  # 4-bit weights are unpacked once per batch

Say = Callable[[str], None]


@dataclass(frozen=True)
class DemoReport:
    """Results of the demo."""

    with_emotion: Scores  # scores of the heads on unseen voices with the emotion stream
    without_emotion: Scores  # the same without it
    speech_llm: Scores  # scores of the speech LLM
    samples: list[Generation]  # three answers to unseen voices
    cache_bytes: int  # size of all stores
    epoch: EpochTimes  # time of an epoch, with the cache and with live encoders
    report: Path  # path of the HTML page
    seconds: float  # of the whole demo


def run_demo(cache: Path, out: Path, say: Say) -> DemoReport:
    """Run every step of the workflow on the embedded clips.

    The converted models are in the folder `models` of `cache`. `out` gets manifests and runs; an
    earlier demo there is continued.
    """
    start = monotonic()
    # The recipes name models by hub id. This replaces the ids with local folders.
    os.environ["RELLM_MODELS"] = str(cache / "models")
    manifest, test = out / "manifest", out / "manifest" / "test.jsonl"
    heads, speech_only, small = demo_recipes(out)

    with timed_step("models", say) as done:
        done(f"in {', '.join(str(path) for path in ensure_models(cache / 'models').values())}")
    with timed_step("prepare", say) as done:
        prepared = prepare(Corpus("demo", embedded_clips()), manifest)
        splits = ", ".join(f"{count} {split}" for split, count in prepared.kept.items())
        done(f"{60 * prepared.hours:.1f} minutes of speech, clips: {splits}")
    with timed_step("respond", say) as done:
        responses = respond(manifest, small)
        done(f"{sum(r.written for r in responses)} expected responses")
    with timed_step("extract", say) as done:
        streams = extract(manifest, small, cache)
        done(", ".join(f"{s.path.name}: {s.encoded} encoded, {s.present} present" for s in streams))
    with timed_step("train heads, both streams", say) as done:
        done(f"{train(heads, manifest, cache, out / 'heads').steps} steps")
    with timed_step("train heads, speech stream alone", say) as done:
        done(f"{train(speech_only, manifest, cache, out / 'heads-speech-only').steps} steps")
    with timed_step("train speech LLM", say) as done:
        trained = train(small, manifest, cache, out / "small")
        before, after = (s["response_lm_loss"] for s in (trained.untrained, trained.validation))
        done(f"{trained.steps} steps, validation response loss {before:.2f} -> {after:.2f}")
    with timed_step("generate", say) as done:
        answers = generate(
            out / "small", test, out / "responses.jsonl", cache, batch_size=ANSWER_BATCH
        )
        done(f"{len(answers)} answers in {out / 'responses.jsonl'}")
    with timed_step("evaluate", say) as done:
        scores = [
            evaluate(out / run, test, cache, EvaluationOptions(samples, overwrite=True))
            for run, samples in (("heads", 0), ("heads-speech-only", 0), ("small", SAMPLES))
        ]
        done(f"three runs on {scores[0].clips} clips of unseen voices")
    with timed_step("time an epoch", say) as done:
        epoch = time_epochs(heads, manifest, cache, out / "timing")
        done(f"{epoch.steps} steps of the heads, from the cache and with the encoders in the loop")
    return DemoReport(
        with_emotion=scores[0],
        without_emotion=scores[1],
        speech_llm=scores[2],
        samples=answers[:: -(-len(answers) // 3)],
        cache_bytes=sum(store.bytes for store in cache_info(cache)),
        epoch=epoch,
        report=out / "small" / "report.html",
        seconds=monotonic() - start,
    )


@contextmanager
def timed_step(title: str, say: Say) -> Iterator[Say]:
    """Yield a function that takes a step's result; at the end, print result and duration."""
    start = monotonic()
    results: list[str] = []
    yield results.append
    say(f"{title}: {'; '.join(results)} ({monotonic() - start:.0f} s)")


def demo_recipes(out: Path) -> tuple[Recipe, Recipe, Recipe]:
    """Heads with both streams, heads with speech only, speech LLM that starts from the first."""
    init_from = f'training.init_from="{(out / "heads").resolve()}"'
    return (
        load_recipe("heads", (EMOTIONS, *SCHEDULE)),
        load_recipe("heads", (EMOTIONS, *SCHEDULE, "encoders.emotion=none")),
        load_recipe("small", (EMOTIONS, init_from, *QUICK)),
    )


def embedded_clips() -> list[Utterance]:
    """Utterances of the clips that come with the package."""
    return read_manifest(Path(str(resources.files("rellm_cache.demo"))) / "clips/manifest.jsonl")
