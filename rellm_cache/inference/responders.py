"""Models that hear. In: a trained run, where its frames come from. Out: answers and labels."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.data.batch import Example
from rellm_cache.data.examples import make_examples
from rellm_cache.data.loader import BatchLoader
from rellm_cache.data.sampler import ordered_batches
from rellm_cache.data.streams import StreamSet
from rellm_cache.inference.answering import Generation, answers
from rellm_cache.inference.emotion import Label, label_speech
from rellm_cache.llm.speech_prompts import require_llm
from rellm_cache.runs.shared_models import Resources
from rellm_cache.runs.weights import load_run
from rellm_cache.training.validation import Predictions, predict
from rellm_cache.utils.devices import default_device

FramesOf = Callable[[Recipe, Sequence[Utterance]], StreamSet]


class Listener:
    """The model of a trained run.

    Attributes:
        recipe: the run's, with `overrides`.
    """

    def __init__(
        self, run: Path, resources: Resources, frames_of: FramesOf, overrides: Sequence[str] = ()
    ) -> None:
        self._device = default_device()
        self.recipe, self._model = load_run(run, self._device, resources.llm, overrides)
        self._frames_of = frames_of

    def answers(self, utterances: Sequence[Utterance], batch_size: int) -> Iterator[Generation]:
        """Answers to utterances, those of like length together: not in the utterances' order.

        Raises:
            ConfigError: the run has no LLM.
        """
        require_llm(self._model.llm)
        frames = self._frames_of(self.recipe, utterances)
        return answers(self._model, utterances, frames, batch_size, self._device)

    def labels(
        self, utterances: Sequence[Utterance], in_words: bool, batch_size: int
    ) -> Iterator[tuple[str, Label]]:
        """Id and label by the LLM, utterances of like length together: not in their order.

        Raises:
            ConfigError: the run has no LLM.
        """
        require_llm(self._model.llm)
        frames = self._frames_of(self.recipe, utterances)
        loader = BatchLoader([Example(u.id) for u in utterances], frames, self._device)
        for batch in loader.batches(ordered_batches(loader.lengths, batch_size)):
            labels = label_speech(self._model, batch.to(self._device), in_words)
            yield from zip(batch.ids, labels, strict=True)

    def heads(self, utterances: Sequence[Utterance]) -> Predictions:
        """Emotions and dimensions by the heads, and the losses, in the utterances' order."""
        frames = self._frames_of(self.recipe, utterances)
        examples = make_examples(utterances, self.recipe, self._model.llm)
        return predict(self._model, examples, frames, self._device)
