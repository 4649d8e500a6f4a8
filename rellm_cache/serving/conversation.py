"""Conversation of the page with one run: its turns, what it heard, and what is shown."""

from dataclasses import dataclass, field

import numpy as np

from rellm_cache.corpus.audio import Clip
from rellm_cache.model.conversation import Turn
from rellm_cache.serving.served_run import Heard, ServedRun
from rellm_cache.serving.worker import Emit

PEAKS = 72  # bars of a drawn waveform
NO_LLM = "This run has no LLM, so it does not answer."


@dataclass(frozen=True)
class Message:
    """A turn as the page shows it.

    Attributes:
        speaker: "user" or "run".
        note: said below the text, such as why an answer ends early.
        peaks: loudness of a clip over time, 0..1, for its waveform; empty without speech.
        seconds: duration of the clip.
    """

    speaker: str
    text: str
    note: str = ""
    peaks: tuple[float, ...] = ()
    seconds: float = 0.0


@dataclass
class Conversation:
    """Turns of one visitor and one run. A turn is kept when it has been answered."""

    turns: list[Turn] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    heard: Heard | None = None

    def say(self, run: ServedRun, clip: Clip | None, text: str, emit: Emit) -> None:
        """Take the user's next turn and the run's reply; emits None whenever something changed.

        Raises:
            ConversationLengthError: the conversation is longer than the LLM supports.
        """
        kept = list(self.messages)
        try:
            if clip is None:
                turn, asked = Turn((text,)), Message("user", text)
            else:
                self.heard = heard = run.hear(clip)
                turn = run.spoken_turn(heard, text)
                said = "\n".join(part for part in (heard.transcript or "", text) if part)
                asked = Message("user", said, "", peaks(clip.waveform), clip.seconds)
            self.messages = [*kept, asked]
            emit(None)
            if run.answers:
                self._reply(run, turn, emit)
            elif clip is None:
                self.messages = [*self.messages, Message("run", "", NO_LLM)]
                emit(None)
        except BaseException:
            self.messages = kept
            raise

    def _reply(self, run: ServedRun, turn: Turn, emit: Emit) -> None:
        asked = list(self.messages)

        def show(texts: list[str]) -> None:
            self.messages = [*asked, Message("run", texts[0])]
            emit(None)

        reply = run.reply([*self.turns, turn], watch=show).continuation
        note = "The answer reached its token limit." if reply.early_stop else ""
        if not reply.text:
            note = "The answer is empty."
        self.messages = [*asked, Message("run", reply.text, note)]
        self.turns += [turn, Turn((reply.text,))]
        emit(None)


def peaks(waveform: np.ndarray) -> tuple[float, ...]:
    """Largest absolute value of each of `PEAKS` parts of a waveform (S,), over the largest."""
    parts = np.array_split(np.abs(waveform), PEAKS)
    found = np.array([part.max(initial=0.0) for part in parts])
    return tuple((found / max(float(found.max()), 1e-6)).round(3).tolist())
