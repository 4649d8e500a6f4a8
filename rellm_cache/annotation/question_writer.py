"""The writer of questions. In: requests and transcripts. Out: replies and guesses, each once.

Before it writes about a clip, the LLM says which emotion it would guess from the transcript alone.
What it says is kept in a journal until the rows that hold it are written.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from rellm_cache.annotation.responses import llm_config
from rellm_cache.annotation.text_replies import Writing, ask
from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import digest
from rellm_cache.data.examples import label_ids
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.generation import Continuation
from rellm_cache.model.answer_likelihoods import answer_log_likelihoods
from rellm_cache.utils.console import progress
from rellm_cache.utils.result_table import Journal, read_journal

Guess = dict[str, float]  # emotion -> probability


def writer_id(recipe: Recipe, weights: str) -> str:
    """What decides a reply besides its prompt, in 12 hex digits."""
    settings, prompts = recipe.qa, recipe.prompts
    seed = settings.seed if settings.temperature else None
    return digest(
        {
            "llm": llm_config(recipe).identity | {"model": weights},
            "written": [settings.system, settings.tokens, settings.temperature, seed],
            "guessed": [prompts.plain_system, prompts.recognition, recipe.heads.emotions],
        }
    )[:12]


@dataclass
class QuestionWriter:
    """The LLM, what it has written, and what it guesses from transcripts.

    Attributes:
        replies: digest of a prompt → what the LLM wrote.
        guesses: transcript → probabilities of the emotions.
    """

    recipe: Recipe
    weights: str
    load: Callable[[], FrozenLLM]
    replies: dict[str, Continuation] = field(default_factory=dict)
    guesses: dict[str, Guess] = field(default_factory=dict)
    _llm: FrozenLLM | None = None

    def __post_init__(self) -> None:
        self.id = writer_id(self.recipe, self.weights)

    @property
    def llm(self) -> FrozenLLM:
        """Loaded when something is to be asked."""
        if self._llm is None:
            self._llm = self.load()
        return self._llm

    def recall(self, journal: Path) -> None:
        """Take up what an interrupted run left."""
        for row in read_journal(journal):
            if row["writer"] != self.id:
                continue
            if "guess" in row:
                self.guesses[row["transcript"]] = row["guess"]
            else:
                self.replies[row["prompt"]] = Continuation(row["text"], row["early_stop"])

    def ask(self, prompts: Sequence[str], transcripts: Sequence[str], size: int, file: Path) -> int:
        """Ask what is not known yet, appending each reply to a journal; how much that was."""
        unknown = {p for p in prompts if digest(p) not in self.replies}
        unguessed = sorted({t for t in transcripts if t not in self.guesses})
        total = len(unknown) + len(unguessed)
        if not total:
            return 0
        settings = self.recipe.qa
        writing = Writing(settings.system, settings.tokens, settings.temperature, settings.seed)
        with progress("Writing", total, "replies") as tick, Journal(file) as journal:
            for transcript in unguessed:
                guess = self.guesses[transcript] = self._guess(transcript)
                journal.append({"writer": self.id, "transcript": transcript, "guess": guess})
                tick()
            for answer in ask(self.llm, unknown, writing, size):
                prompt, reply = digest(answer.prompt), answer.reply
                self.replies[prompt] = reply
                row = {"prompt": prompt, "text": reply.text, "early_stop": reply.early_stop}
                journal.append({"writer": self.id, **row})
                tick()
        return total

    def _guess(self, transcript: str) -> Guess:
        """Probabilities of the emotions by what the transcript adds to the LLM's own leaning.

        Likelihoods of the labels as answers to the request for recognition, the transcript in the
        place of the speech, over those with nothing in its place (Zhao et al. 2021).
        """
        likely = self._label_likelihoods(transcript) - self._leaning  # (C,)
        return dict(zip(self.recipe.heads.emotions, likely.softmax(0).tolist(), strict=True))

    @cached_property
    def _leaning(self) -> torch.Tensor:
        """(C,) what the LLM says of no transcript at all."""
        return self._label_likelihoods("")

    def _label_likelihoods(self, transcript: str) -> torch.Tensor:
        prompts, llm = self.recipe.prompts, self.llm
        user = prompts.recognition.replace("{speech}", transcript)
        request = llm.chat.text_prompt(prompts.plain_system, user)
        return answer_log_likelihoods(llm, [llm.segment(ids=request)], label_ids(self.recipe, llm))
