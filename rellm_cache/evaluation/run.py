"""evaluate. In: a run and a manifest. Out: recognition by head and LLM, CCC, and the report.

<out>/scores.json       all figures, and what data they are of
<out>/predictions.csv   what the head and the LLM say of each utterance
<out>/evaluated.jsonl   the same with answers and their empathy, and what each was made from
<out>/report.html       the same for a reader, with curves and samples to listen to
<run>/README.md         the model card, with these scores, where `out` is the run itself

A killed call goes on where it was. Of a finished one only what has changed since is asked again.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import digest
from rellm_cache.corpus.manifest import Utterance, read_manifests
from rellm_cache.data.examples import learned_from
from rellm_cache.data.streams import StreamSet
from rellm_cache.empathy.scorer_folder import CARD as SCORER_CARD
from rellm_cache.empathy.scorer_folder import load_card
from rellm_cache.errors import ConfigError, ManifestError, RunError
from rellm_cache.evaluation.empathy import (
    EmpathyScores,
    ReplyLevels,
    score_answers,
    summarize_empathy,
)
from rellm_cache.evaluation.report import REPORT, render_report
from rellm_cache.evaluation.scores import EmotionPredictions, Scores, make_scores, prediction_rows
from rellm_cache.inference.emotion import Label
from rellm_cache.inference.fingerprints import DIGITS, answer_fingerprints
from rellm_cache.inference.responders import Generation, SpeechResponder, TextResponder
from rellm_cache.runs.card import CARD, SCORES, read_card, render_card
from rellm_cache.runs.provenance import TRAINING, summarise_data
from rellm_cache.runs.publish import SUMS, is_published
from rellm_cache.runs.shared_models import Resources
from rellm_cache.runs.weights import RECIPE, run_recipe
from rellm_cache.utils.atomic_files import csv_text, update_text
from rellm_cache.utils.console import counted, progress, say
from rellm_cache.utils.devices import use_threads
from rellm_cache.utils.model_files import file_digest
from rellm_cache.utils.result_table import FINGERPRINT, ResultTable, fingerprint_of

EVALUATED, PREDICTIONS = "evaluated.jsonl", "predictions.csv"
OF_ALL = ""  # id of the row of all utterances together: losses


@dataclass(frozen=True)
class EvaluationOptions:
    """What an evaluation asks of a run beside the heads and the label that the LLM finds likeliest.

    Attributes:
        samples: utterances answered in the report, spread over emotions; 0 for none.
        in_words: the LLM also names each clip's emotion in words, which takes the longest.
        empathy: folder of an empathy scorer: then every utterance that has a transcript is answered
            and the answer scored.
    """

    samples: int = 6
    in_words: bool = True
    empathy: Path | None = None


def evaluate(
    run: Path,
    manifest: Path,
    cache: Path,
    options: EvaluationOptions = EvaluationOptions(),
    out: Path | None = None,
    resources: Resources | None = None,
) -> Scores:
    """Score a run on a manifest; write `scores.json`, `predictions.csv`, `report.html` and its
    card.

    What the run says of each utterance is kept in `evaluated.jsonl` with what it was made from: the
    same call again asks nothing, makes the figures from there, and says that nothing is to do.

    Args:
        out: folder to write to; None for the run itself, whose card then has the scores.
        resources: the LLM and stores that other runs of this process use too.

    Raises:
        RunError: `run` is not a finished run, `out` is a published one or another run, or
            `options.empathy` is no finished scorer.
        ConfigError: empathy is asked of a run without LLM.
        ManifestError: the manifest cannot be read; empathy is asked and no utterance has a
            transcript, or the run's model reads and one has none.
        StoreError: clips are absent from the cache.
        JournalError: a line of `evaluated.jsonl` cannot be read.
    """
    out = out or run
    _check_out(run, out)
    evaluator = Evaluator(run, manifest, cache, out, resources or Resources())
    recipe, utterances = evaluator.recipe, evaluator.utterances
    spoken = [u for u in utterances if u.text.strip()]
    if options.empathy is not None:
        _check_empathy(run, recipe, options.empathy)
        if not spoken:
            raise ManifestError(
                f"{manifest}: no utterance has a transcript (text), which stands for the seeker's "
                "post; add transcripts, or leave empathy out"
            )
    with use_threads("models" if recipe.needs_llm else "heads"):
        predictions = evaluator.predict(options.in_words)
    empathy = None
    if options.empathy is not None:
        empathy = evaluator.empathy(spoken, options.empathy)
    chosen = choose_samples(utterances, options.samples) if recipe.needs_llm else []
    shown = evaluator.answers(chosen)
    data = summarise_data(utterances, manifest)
    scores = make_scores(data, utterances, predictions, recipe.heads.emotions, empathy)
    figures = scores.to_json()
    out.mkdir(parents=True, exist_ok=True)
    written = [
        evaluator.finish(),
        update_text(out / SCORES, json.dumps(figures, indent=2) + "\n"),
        update_text(out / PREDICTIONS, csv_text(*prediction_rows(utterances, predictions))),
        update_text(out / REPORT, render_report(run, recipe, figures, chosen, shown)),
    ]
    if _is_own(run, out) and (run / TRAINING).exists():
        written.append(update_text(run / CARD, render_card(read_card(run))))
    if not any(written):
        clips = counted(len(utterances), "clip is", "clips are")
        say(f"{out}: nothing to do, {clips} scored")
    return scores


def _is_own(run: Path, out: Path) -> bool:
    """Whether scores go into the run's own folder."""
    return out.resolve() == run.resolve()


def _check_out(run: Path, out: Path) -> None:
    """Raise `RunError` where scores of a run would be taken for something else."""
    if is_published(out):
        raise RunError(
            f"{out}: is a published folder, whose {SUMS} would no longer hold; give another folder "
            "for the scores with --out"
        )
    if not _is_own(run, out) and (out / RECIPE).exists():
        raise RunError(
            f"{out}: is the folder of another run, whose scores these are not; give another folder "
            "for the scores with --out"
        )


def _check_empathy(run: Path, recipe: Recipe, scorer: Path) -> None:
    """Raise what would fail after all is answered, before anything is options."""
    if not recipe.needs_llm:
        raise ConfigError(
            f"{run}: recipe {recipe.name!r} has no LLM, so there are no answers to score for "
            "empathy; leave empathy out, or evaluate a run of a recipe that answers, as `small`"
        )
    load_card(scorer)


def choose_samples(utterances: Sequence[Utterance], count: int) -> list[Utterance]:
    """Utterances spread over emotions and speakers, always the same ones."""
    by_emotion: dict[str | None, list[Utterance]] = {}
    for utterance in utterances:
        by_emotion.setdefault(utterance.emotion, []).append(utterance)
    chosen: list[Utterance] = []
    for turn in range(count):
        for index, group in enumerate(by_emotion.values()):
            start = (turn * len(group) // 2 + index * 7) % len(group)
            left = [u for u in (*group[start:], *group[:start]) if u not in chosen]
            if len(chosen) < count and left:
                chosen.append(left[0])
    return chosen


BATCH = 16  # clips asked about at a time


class Evaluator:
    """A run and all utterances of a manifest.

    Args:
        run: folder of a finished run.
        manifest: file or folder.
        cache: root of the stores.
        out: where what is said is kept.

    Attributes:
        recipe: of the run.
        utterances: in the manifest's order.

    Raises:
        RunError: `run` is not a finished run.
        ManifestError: the manifest cannot be read, or the run's model reads and an utterance has
            no transcript.
        StoreError: clips are absent from the cache.
        JournalError: what was kept cannot be read.
    """

    def __init__(
        self, run: Path, manifest: Path, cache: Path, out: Path, resources: Resources
    ) -> None:
        self._run, self._manifest, self._cache = run, manifest, cache
        self._resources = resources
        self.utterances = read_manifests(manifest)
        self.recipe = run_recipe(run)
        made = answer_fingerprints(run, self.recipe, self.utterances, cache, self._load_streams)
        if self._hears:  # losses follow from labels and responses too
            streams = self._load_streams(self.utterances)
            learned = learned_from([self.utterances], self.recipe, {}, streams)
            made[OF_ALL] = digest([made, learned])[:DIGITS]
        self._said = ResultTable(out / EVALUATED, made)

    def predict(self, in_words: bool) -> EmotionPredictions:
        """Emotions and dimensions by the heads, emotions by the LLM where there is one; nothing of
        it where the recipe gives the true one away.

        Args:
            in_words: the LLM also names each emotion in words.
        """
        text = self.recipe.text
        names_emotions = self.recipe.needs_llm and not (text and text.gold_emotion)
        if self._hears:
            self._ask_heads()
        if names_emotions:
            self._ask_labels(("likely", "named") if in_words else ("likely",))
        rows = [self._said[u.id] for u in self.utterances]
        felt = self._hears and self.recipe.heads.dimensions
        return EmotionPredictions(
            head=[row["head"] for row in rows] if self._hears else None,
            dimensions=np.array([r["dimensions"] for r in rows], np.float32) if felt else None,
            llm=[Label(row["likely"], row["named"] if in_words else None) for row in rows]
            if names_emotions
            else None,
            in_words=in_words,
            losses=self._said[OF_ALL]["losses"] if self._hears else {},
        )

    def answers(self, utterances: Sequence[Utterance]) -> list[Generation]:
        """Answers to some of the utterances, in their order.

        Raises:
            ConfigError: the run has no LLM.
        """
        left = [u for u in utterances if "answer" not in self._said[u.id]]
        if left:
            with progress("Answering", len(left), "clips") as tick, self._said:
                for answer in self._responder.answers(left, BATCH):
                    said = asdict(answer)
                    own = {name: said.pop(name) for name in ("id", "audio", "text")}
                    self._said.add(own["id"], answer=said)
                    tick()
        return [Generation(u.id, u.audio, u.text, **self._said[u.id]["answer"]) for u in utterances]

    def empathy(self, utterances: Sequence[Utterance], folder: Path) -> EmpathyScores:
        """How empathetic the answers to some utterances are, by the scorer in `folder`.

        Args:
            utterances: at least one, all with a transcript.

        Raises:
            RunError: it holds no finished scorer.
            ConfigError: the run has no LLM.
        """
        answers = self.answers(utterances)
        scorer = file_digest(folder / SCORER_CARD)
        made = {a.id: digest([scorer, a.text, a.response])[:DIGITS] for a in answers}

        def is_scored(name: str) -> bool:
            return fingerprint_of(self._said[name].get("empathy", {})) == made[name]

        left = [answer for answer in answers if not is_scored(answer.id)]
        if left:
            with progress("Scoring", len(left), "answers") as tick, self._said:
                for answer, levels in zip(left, score_answers(folder, left), strict=True):
                    said = {FINGERPRINT: made[answer.id], **asdict(levels)}
                    self._said.add(answer.id, empathy=said)
                    tick()
        kept = (self._said[answer.id]["empathy"] for answer in answers)
        scored = [ReplyLevels(row["levels"], row["long_levels"], row["cut"]) for row in kept]
        return summarize_empathy([answer.response for answer in answers], scored)

    def finish(self) -> bool:
        """Write what was said, once all is asked; whether any of it is new."""
        return self._said.finish()

    @property
    def _hears(self) -> bool:
        return self.recipe.text is None

    @cached_property
    def _speech_responder(self) -> SpeechResponder:
        return SpeechResponder(self._run, self._resources, self._load_streams)

    @cached_property
    def _responder(self) -> TextResponder | SpeechResponder:
        if self._hears:
            return self._speech_responder
        return TextResponder(self.recipe, self._cache, self._resources)

    def _load_streams(self, utterances: Sequence[Utterance]) -> StreamSet:
        streams = self._resources.streams(self.recipe, self._cache)
        command = (
            f"rellm extract {self._manifest} --recipe {self._run}/recipe.toml --cache {self._cache}"
        )
        streams.require([u.id for u in utterances], command)
        return streams

    def _ask_heads(self) -> None:
        """All together, as losses are means; these are kept last and say that nothing is left."""
        known = not self._said.missing((u.id for u in self.utterances), "head")
        if known and "losses" in self._said[OF_ALL]:
            return
        found = self._speech_responder.heads(self.utterances)
        names, felt = self.recipe.heads.emotions, found.dimensions
        with self._said:
            for place, utterance in enumerate(self.utterances):
                values = None if felt is None else felt[place].tolist()
                chosen = names[found.emotions[place]]
                self._said.add(utterance.id, head=chosen, dimensions=values)
            self._said.add(OF_ALL, losses=found.terms.means())

    def _ask_labels(self, wanted: tuple[str, ...]) -> None:
        """The fields of a `Label` that are wanted."""
        missing = {*self._said.missing((u.id for u in self.utterances), *wanted)}
        left = [u for u in self.utterances if u.id in missing]
        if not left:
            return
        with progress("Recognising", len(left), "clips") as tick, self._said:
            for name, label in self._responder.labels(left, "named" in wanted, BATCH):
                self._said.add(name, **{key: getattr(label, key) for key in wanted})
                tick()
