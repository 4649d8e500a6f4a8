"""Ray actors as workers.

All machines of the cluster must see the cache, the audio and the models under the same paths, and
have rellm installed. If the cache is at a URL, each machine has its own mirror and needs its own
credentials. Ray decides where an actor runs: each actor gets one GPU, or a share of the CPUs if the
cluster has no GPU.
"""

import contextlib
import os
import queue
import socket
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from rellm_cache.errors import ConfigError
from rellm_cache.store.remote.mirror_paths import mirrors_folder
from rellm_cache.utils.model_files import models_root
from rellm_cache.workers.coordinator import WorkerEvents, WorkerHandle
from rellm_cache.workers.messages import Command, Died, Event, Finished, WorkerTask

CONNECT_SECONDS = 10.0


class ActorWorker:
    """The actor: runs a worker's task in a thread.

    Args:
        folder: working directory of the command, for relative paths.
    """

    def __init__(self, task: WorkerTask, folder: str) -> None:
        os.chdir(folder)
        self._commands: queue.Queue[Command] = queue.Queue()
        self._events: queue.Queue[Event] = queue.Queue()
        arguments = (self._commands.get, self._events.put)
        threading.Thread(target=task.run, args=arguments, daemon=True).start()

    def command(self, command: Command) -> None:
        """Queue a batch, `FINISH` or `STOP`."""
        self._commands.put(command)

    def events(self) -> list[Event]:
        """Events since the last call; blocks until there is one."""
        found = [self._events.get()]
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._events.get_nowait())
        return found


class ActorHandle:
    """The coordinator's end of one actor, with the pending call for its next events."""

    def __init__(self, name: str, actor: Any) -> None:
        self.name = name
        self.actor = actor
        self.pending = actor.events.remote()

    def send(self, command: Command) -> None:
        """Send a command."""
        self.actor.command.remote(command)


class RayPool:
    """Starts actors in the cluster at `address`; "local" starts a cluster on this machine.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers.
    """

    def __init__(self, address: str, size: int, task: WorkerTask) -> None:
        self._ray = _import_ray()
        self._joined = not self._ray.is_initialized()
        if self._joined:
            _connect(self._ray, address)
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        gpus = int(sum(machine.get("GPU", 0) for machine in machines))
        cpus = offered_cpus(machines)
        self.size = size or gpus or len(cpus)
        share = cpu_share(cpus, self.size)
        self._needs = {"num_gpus": 1, "num_cpus": 1} if gpus else {"num_cpus": share}
        self._task = replace(task, threads=0 if gpus else max(1, int(share)))
        self._handles: list[ActorHandle] = []

    def start(self) -> WorkerHandle:
        """Request one more actor."""
        worker = self._ray.remote(max_concurrency=2, max_restarts=0, **self._needs)(ActorWorker)
        paths = {
            "RELLM_MODELS": str(models_root().resolve()),
            "RELLM_COPIES": str(mirrors_folder().resolve()),
        }
        actor = worker.options(runtime_env={"env_vars": paths}).remote(self._task, os.getcwd())
        self._handles.append(ActorHandle(f"actor {len(self._handles) + 1}", actor))
        return self._handles[-1]

    def wait(self, handles: Sequence[WorkerHandle], seconds: float | None) -> WorkerEvents:
        """Block until actors sent events or died."""
        by_call = {h.pending: h for h in handles if isinstance(h, ActorHandle)}
        ready, _ = self._ray.wait(list(by_call), num_returns=1, timeout=seconds)
        return [(by_call[call], event) for call in ready for event in self._receive(by_call[call])]

    def _receive(self, handle: ActorHandle) -> list[Event]:
        try:
            events: list[Event] = self._ray.get(handle.pending)
        except self._ray.exceptions.RayActorError as error:
            return [Died(str(error).splitlines()[0])]
        if not any(isinstance(event, Finished) for event in events):
            handle.pending = handle.actor.events.remote()
        return events

    def close(self) -> None:
        """End all actors, and leave the cluster if it was joined here."""
        for handle in self._handles:
            self._ray.kill(handle.actor)
        if self._joined:
            self._ray.shutdown()


def offered_cpus(machines: Iterable[Mapping[str, float]]) -> list[int]:
    """CPUs of each machine that offers any, from Ray's resources. The head often offers none.

    Raises:
        ConfigError: no machine offers a CPU.
    """
    cpus = [count for machine in machines if (count := int(machine.get("CPU", 0)))]
    if not cpus:
        raise ConfigError(
            "--ray: no machine of the cluster offers a CPU; expected at least one that was started "
            "without `--num-cpus=0`"
        )
    return cpus


def cpu_share(cpus: Sequence[int], actors: int) -> float:
    """The most CPUs that each actor can reserve, given the CPUs of each machine.

    An actor that can reserve none would never start, so several may have to share one CPU.
    """
    for share in range(min(cpus), 0, -1):
        if sum(count // share for count in cpus) >= actors:
            return share
    actors_a_cpu = -(-actors // sum(cpus))
    return int(1e4 / actors_a_cpu) / 1e4  # Ray rounds to this step


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "--ray: the package ray is not installed. Install it on every machine of the cluster: "
            "pip install 'rellm[ray]'"
        ) from error
    return ray


def _require_listener(address: str) -> None:
    """Raise `ConfigError` unless something listens at host:port; Ray would wait for minutes."""
    if address in ("auto", "local"):
        return
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        place = (parts.hostname or "", parts.port or 0)
        socket.create_connection(place, CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"--ray {address}: no cluster answers ({error}); expected host:port of a cluster "
        "started with `ray start --head`, `auto`, or `local` for this machine"
    )


def _connect(ray: Any, address: str) -> None:
    _require_listener(address)
    # Workers report through events. A cluster started by this command sends no usage statistics.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address, log_to_driver=False, logging_level="error", **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_cluster(address, error) from error
