"""Experiment trackers: TensorBoard, Weights & Biases and Trackio, through accelerate.

A tracker gets the numbers of `metrics.jsonl` and the recipe. It only watches: one that fails is
left out for the rest of the call, with one warning, and training goes on as without it. A continued
run continues in its tracker, too, by the id in `tracker.json`.
"""

import contextlib
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from rellm_cache.config.recipes import to_toml
from rellm_cache.config.schema import Recipe
from rellm_cache.errors import ConfigError, RunError, reason_of
from rellm_cache.runs.folder import TENSORBOARD, TRACKER, WANDB
from rellm_cache.utils.atomic_files import write_json
from rellm_cache.utils.console import say
from rellm_cache.utils.json_files import read_object

PROJECT = "rellm"  # of W&B, unless WANDB_PROJECT is set, and of Trackio
NO_TRACKER = "none"


def require_tracker(name: str) -> None:
    """Raise `ConfigError` if the library of a tracker is not installed."""
    if name != NO_TRACKER and name not in map(str, get_available_trackers()):
        raise ConfigError(
            f'training.tracker = "{name}": the package {name} is not installed; pip install '
            f"'rellm[{name}]', or add --set training.tracker=none"
        )


class RunTracker:
    """The tracker of one run, or none. As a context it begins or continues the run, and ends it.

    Args:
        accelerator: made with `log_with` of the recipe's tracker.
        recipe: what the tracker shows as the run's configuration.
        out: the run folder.
    """

    def __init__(self, accelerator: Accelerator, recipe: Recipe, out: Path) -> None:
        self._accelerator, self._recipe, self._out = accelerator, recipe, out
        self._name = recipe.training.tracker
        self._works = self._name != NO_TRACKER and accelerator.is_main_process

    def __enter__(self) -> None:
        self._attempt(self._start)

    def __exit__(self, *_: object) -> None:
        # After an error too: another run of this process must not be taken for this one.
        for tracker in self._accelerator.trackers:
            self._attempt(tracker.finish)
        self._accelerator.trackers = []

    def log(self, row: Mapping[str, Any]) -> None:
        """Give a row of `metrics.jsonl` to the tracker."""
        validation = {f"validation/{k}": v for k, v in row.get("validation", {}).items()}
        training = {f"train/{k}": v for k, v in row.items() if "loss" in k or "rate" in k}
        self._attempt(lambda: self._accelerator.log({**training, **validation}, step=row["step"]))

    def _start(self) -> None:
        options: dict[str, Any] = {}
        project = TENSORBOARD
        if self._name != "tensorboard":
            name, run_id = self._out.resolve().name, self._run_id()
            project, table = PROJECT, self._recipe.to_table()
            if self._name == "wandb":
                project = os.environ.get("WANDB_PROJECT", PROJECT)
                (self._out / WANDB).mkdir(exist_ok=True)
                options = {
                    "id": run_id,
                    "name": name,
                    "resume": "allow",
                    "dir": str(self._out),
                    "settings": {"console": "off"},  # it would replace standard output
                }
            else:
                options = {
                    "name": f"{name}-{run_id}",
                    "resume": "allow",
                    "embed": False,
                    "auto_log_cpu": False,
                    "auto_log_gpu": False,
                }
            options["config"] = table
        self._accelerator.init_trackers(project, init_kwargs={self._name: options})
        if self._name == "tensorboard":
            text = "".join(f"    {line}\n" for line in to_toml(self._recipe).splitlines())
            self._accelerator.get_tracker("tensorboard", unwrap=True).add_text("recipe", text)

    def _run_id(self) -> str:
        """The id of the run in its tracker, made at the first call."""
        file, fix = self._out / TRACKER, "remove it, and the tracker shows a new run"
        if not file.is_file():
            write_json(file, {"id": secrets.token_hex(4)})
        run_id = read_object(file, RunError, fix).get("id")
        if not isinstance(run_id, str) or not run_id.isalnum():
            raise RunError(f"{file}: found id {run_id!r:.80}, expected letters and digits; {fix}")
        return run_id

    def _attempt(self, call: Callable[[], object]) -> None:
        if not self._works:
            return
        try:
            with contextlib.redirect_stdout(sys.stderr):
                call()
        except Exception as error:  # errors of any type, which must not end training
            self._works = False
            self._accelerator.trackers = []
            say(
                f"Warning: training.tracker = {self._name!r} failed and is left out from here on "
                f"({reason_of(error)}); training goes on, and metrics.jsonl has all numbers"
            )
