"""Asking a run about clips. In: a run, a manifest, what is known. Out: what the run says of each.

What is known lies in an `Evaluated`. The model is loaded when something is left to ask, and each
answer is kept before the next one is asked for.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np

from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import digest
from rellm_cache.corpus.manifest import Utterance, read_manifests
from rellm_cache.data.examples import learned_from, require_frames
from rellm_cache.data.streams import StreamSet
from rellm_cache.empathy.scorer_folder import CARD
from rellm_cache.evaluation.empathy import (
    EmpathyScores,
    ReplyLevels,
    score_answers,
    summarise_empathy,
)
from rellm_cache.evaluation.predictions import OF_ALL, Evaluated
from rellm_cache.evaluation.scores import Judgement
from rellm_cache.inference.answering import Generation
from rellm_cache.inference.emotion import Label
from rellm_cache.inference.fingerprints import DIGITS, made_from
from rellm_cache.inference.responders import Listener
from rellm_cache.inference.text_responder import Reader
from rellm_cache.runs.shared_models import Resources
from rellm_cache.runs.weights import run_recipe
from rellm_cache.utils.console import Tick, progress
from rellm_cache.utils.model_files import file_digest
from rellm_cache.utils.result_table import Journal

BATCH = 16  # clips asked about at a time


class Examination:
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
        made = made_from(run, self.recipe, self.utterances, cache, self._frames)
        if self._hears:  # losses follow from labels and responses too
            frames = self._frames(self.recipe, self.utterances)
            learned = learned_from([self.utterances], self.recipe, {}, frames)
            made[OF_ALL] = digest([made, learned])[:DIGITS]
        self._said = Evaluated(out, made)

    def judge(self, in_words: bool) -> Judgement:
        """Emotions and dimensions by the heads, emotions by the LLM where there is one; nothing of
        it where the recipe gives the true one away.

        Args:
            in_words: the LLM also names each emotion in words.
        """
        text = self.recipe.text
        names_emotions = self.recipe.needs_llm and not (text and text.label)
        if self._hears:
            self._ask_heads()
        if names_emotions:
            self._ask_labels(("likely", "named") if in_words else ("likely",))
        rows = [self._said[u.id] for u in self.utterances]
        felt = self._hears and self.recipe.heads.dimensions
        return Judgement(
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
            with self._asking("Answering", left, "clips") as (journal, tick):
                for answer in self._model.answers(left, BATCH):
                    said = asdict(answer)
                    own = {name: said.pop(name) for name in ("id", "audio", "text")}
                    self._said.keep(journal, own["id"], answer=said)
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
        scorer = file_digest(folder / CARD)
        made = {a.id: digest([scorer, a.text, a.response])[:DIGITS] for a in answers}

        def is_scored(name: str) -> bool:
            return bool(self._said[name].get("empathy", {}).get("made_from") == made[name])

        left = [answer for answer in answers if not is_scored(answer.id)]
        if left:
            with self._asking("Scoring", left, "answers") as (journal, tick):
                for answer, levels in zip(left, score_answers(folder, left), strict=True):
                    said = {"made_from": made[answer.id], **asdict(levels)}
                    self._said.keep(journal, answer.id, empathy=said)
                    tick()
        kept = (self._said[answer.id]["empathy"] for answer in answers)
        scored = [ReplyLevels(row["levels"], row["long_levels"], row["cut"]) for row in kept]
        return summarise_empathy([answer.response for answer in answers], scored)

    def finish(self) -> bool:
        """Write what was said, once all is asked; whether any of it is new."""
        return self._said.finish()

    @property
    def _hears(self) -> bool:
        return self.recipe.text is None

    @cached_property
    def _listener(self) -> Listener:
        return Listener(self._run, self._resources, self._frames)

    @cached_property
    def _model(self) -> Reader | Listener:
        if self._hears:
            return self._listener
        return Reader(self.recipe, self._cache, self._resources)

    def _frames(self, recipe: Recipe, utterances: Sequence[Utterance]) -> StreamSet:
        frames = self._resources.frames(recipe, self._cache)
        command = (
            f"rellm extract {self._manifest} --recipe {self._run}/recipe.toml --cache {self._cache}"
        )
        require_frames(frames, [u.id for u in utterances], command)
        return frames

    def _ask_heads(self) -> None:
        """All together, as losses are means; these are kept last and say that nothing is left."""
        known = all("head" in self._said[utterance.id] for utterance in self.utterances)
        if known and "losses" in self._said[OF_ALL]:
            return
        found = self._listener.heads(self.utterances)
        names, felt = self.recipe.heads.emotions, found.dimensions
        with Journal(self._said.journal) as journal:
            for place, utterance in enumerate(self.utterances):
                values = None if felt is None else felt[place].tolist()
                chosen = names[found.emotions[place]]
                self._said.keep(journal, utterance.id, head=chosen, dimensions=values)
            self._said.keep(journal, OF_ALL, losses=found.terms.means())

    def _ask_labels(self, wanted: tuple[str, ...]) -> None:
        """The fields of a `Label` that are wanted."""
        left = [u for u in self.utterances if not self._said[u.id].keys() >= {*wanted}]
        if not left:
            return
        with self._asking("Recognising", left, "clips") as (journal, tick):
            for name, label in self._model.labels(left, "named" in wanted, BATCH):
                self._said.keep(journal, name, **{key: getattr(label, key) for key in wanted})
                tick()

    @contextmanager
    def _asking(
        self, title: str, left: Sequence[object], unit: str
    ) -> Iterator[tuple[Journal, Tick]]:
        with progress(title, len(left), unit) as tick, Journal(self._said.journal) as journal:
            yield journal, tick
