"""Going on with a run. In: its parts. Out: a checkpoint of all they depend on, and back from it.

What the next step depends on besides the data: weights, optimiser, position, and of every process
its random states and how much it puts through the model at once.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import Accelerator

from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.training.checkpoints import Checkpoints, cannot_continue, read_state, write_state
from rellm_cache.training.distributed import gathered, main_says
from rellm_cache.training.micro_batches import Budget
from rellm_cache.training.optim import Optimisation, Position
from rellm_cache.utils.console import say
from rellm_cache.utils.devices import random_state, set_random_state


@dataclass
class Resuming:
    """Saves and restores one run. All processes call every method together; the main one writes.

    Attributes:
        folder: of checkpoints.
        minutes: between two within an epoch.
    """

    model: SpeechLLM
    optimisation: Optimisation
    budget: Budget
    accelerator: Accelerator
    folder: Path
    minutes: float
    _saved: float = field(default_factory=time.monotonic, init=False)
    _ended: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._checkpoints = Checkpoints(self.folder)

    def is_due(self) -> bool:
        """Whether the main process's clock says that it is time for a checkpoint."""
        return bool(main_says(self.accelerator, time.monotonic() - self._saved > 60 * self.minutes))

    def save(self, position: Position) -> None:
        """Write a checkpoint."""
        own = {**random_state(self.accelerator.device), "budget": self.budget.state()}
        processes = gathered(self.accelerator, own)
        if self.accelerator.is_main_process:
            state = {
                "position": vars(position),
                "optimisation": self.optimisation.state(),
                "processes": processes,
            }
            self._checkpoints.save(
                position.step, lambda folder: write_state(folder, self.model, state)
            )
        self._saved = time.monotonic()

    def end(self, position: Position) -> None:
        """Keep of a run that has ended its last weights and position: nothing goes on from the
        optimiser's state. Once is enough. Only the main process calls this."""
        if self._ended:
            return
        state = {"position": vars(position)}
        self._checkpoints.save(
            position.step, lambda folder: write_state(folder, self.model, state), kept=1
        )

    def restore(self) -> Position:
        """Go back to the newest whole checkpoint: the position after it, or the beginning. Of a run
        that has ended, weights and position alone.

        Raises:
            RunError: it belongs to another run.
        """
        step, notes = self._checkpoints.newest() if self.accelerator.is_main_process else (0, [])
        for note in notes:
            say(f"Note: {note}")
        step = main_says(self.accelerator, step)
        if not step:
            return Position()
        path = self._checkpoints.path(step)
        state = read_state(path, self.model)
        try:
            position = Position(**state["position"])
            self._ended = state.keys() == {"position"}
            if self._ended:
                return position
            self.optimisation.load(state["optimisation"])
            processes = state["processes"]
            saved = len(processes["budget"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise cannot_continue(path, error) from error
        rank = self.accelerator.process_index
        if rank < saved:
            own = {name: of_all[rank] for name, of_all in processes.items()}
            self.budget.load(own.pop("budget"))
            set_random_state(own, self.accelerator.device)
        if self.accelerator.is_main_process and saved != self.accelerator.num_processes:
            say(
                f"Note: {path} is of {saved} processes and this run has "
                f"{self.accelerator.num_processes}: dropout is drawn differently from here on"
            )
        return position
