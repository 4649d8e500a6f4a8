"""Workers as actors of a Ray cluster. In: an address and a job. Out: a pool for the coordinator.

All machines must see the cache, the audio and the models under the same paths, and have rellm
installed; of a cache at a URL each has a copy of its own, and credentials of its own. Ray decides
where an actor runs: with GPUs in the cluster each actor has one, without each has its share of a
machine's CPUs.
"""

import contextlib
import os
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rellm_cache.errors import ConfigError
from rellm_cache.extraction.messages import FINISH, STOP, Batch, Died, Event, Finished, Job
from rellm_cache.extraction.pipeline import StopWork, serve
from rellm_cache.extraction.workers.coordinator import Handle
from rellm_cache.store.remote.mirror_paths import mirrors_folder
from rellm_cache.utils.model_files import models_root


class ActorWorker:
    """What runs in the cluster: a worker's pipeline in a thread, commands in, events out.

    Args:
        job: what to encode with.
        folder: where the command was started; relative paths are taken from there.
    """

    def __init__(self, job: Job, folder: str) -> None:
        os.chdir(folder)
        self._commands: queue.Queue[Batch | str] = queue.Queue()
        self._events: queue.Queue[Event] = queue.Queue()
        arguments = (job, self._batches(), self._events.put)
        threading.Thread(target=serve, args=arguments, daemon=True).start()

    def command(self, command: Batch | str) -> None:
        """Take a batch, or be told to finish or stop."""
        self._commands.put(command)

    def events(self) -> list[Event]:
        """What has happened since the last call; waits until something has."""
        found = [self._events.get()]
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._events.get_nowait())
        return found

    def _batches(self) -> Iterator[Batch]:
        while (command := self._commands.get()) != FINISH:
            if not isinstance(command, Batch):
                raise StopWork
            yield command


class ActorHandle:
    """One actor, seen from the coordinator, and the call that waits for its next events."""

    def __init__(self, name: str, actor: Any) -> None:
        self.name = name
        self.actor = actor
        self.listening = actor.events.remote()

    def send(self, batch: Batch) -> None:
        """Give it a batch."""
        self.actor.command.remote(batch)

    def finish(self) -> None:
        """Let it encode what it has, commit and end."""
        self.actor.command.remote(FINISH)

    def stop(self) -> None:
        """Let it leave what it has not begun, commit and end."""
        self.actor.command.remote(STOP)


class RayPool:
    """Starts actors in the cluster at `address` ("local" starts one of this machine).

    Raises:
        ConfigError: Ray is not installed, or no cluster answers.
    """

    def __init__(self, address: str, size: int, job: Job) -> None:
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
        self._job = replace(job, threads=0 if gpus else max(1, int(share)))
        self._handles: list[ActorHandle] = []

    def start(self) -> Handle:
        """Ask for one more actor."""
        worker = self._ray.remote(max_concurrency=2, max_restarts=0, **self._needs)(ActorWorker)
        places = {
            "RELLM_MODELS": str(models_root().resolve()),
            "RELLM_COPIES": str(mirrors_folder().resolve()),
        }
        actor = worker.options(runtime_env={"env_vars": places}).remote(self._job, os.getcwd())
        self._handles.append(ActorHandle(f"actor {len(self._handles) + 1}", actor))
        return self._handles[-1]

    def wait(self, handles: Sequence[Handle], seconds: float | None) -> list[tuple[Handle, Event]]:
        """What the actors have said, and which have died."""
        by_call = {h.listening: h for h in handles if isinstance(h, ActorHandle)}
        ready, _ = self._ray.wait(list(by_call), num_returns=1, timeout=seconds)
        return [(by_call[call], event) for call in ready for event in self._hear(by_call[call])]

    def _hear(self, handle: ActorHandle) -> list[Event]:
        try:
            events: list[Event] = self._ray.get(handle.listening)
        except self._ray.exceptions.RayActorError as error:
            return [Died(str(error).splitlines()[0])]
        if not any(isinstance(event, Finished) for event in events):
            handle.listening = handle.actor.events.remote()
        return events

    def close(self) -> None:
        """End all actors, and leave the cluster if it was joined here."""
        for handle in self._handles:
            self._ray.kill(handle.actor)
        if self._joined:
            self._ray.shutdown()


def offered_cpus(machines: Iterable[Mapping[str, float]]) -> list[int]:
    """CPUs of each machine that offers any, as Ray gives its resources; often the head has none.

    Raises:
        ConfigError: no machine offers one.
    """
    cpus = [count for machine in machines if (count := int(machine.get("CPU", 0)))]
    if not cpus:
        raise ConfigError(
            "--ray: no machine of the cluster offers a CPU; expected at least one that was started "
            "without `--num-cpus=0`"
        )
    return cpus


def cpu_share(cpus: Sequence[int], actors: int) -> float:
    """The most CPUs that each of some actors can reserve, given those of each machine.

    An actor that finds none to reserve would never start, so if need be several share one.
    """
    for share in range(min(cpus), 0, -1):
        if sum(count // share for count in cpus) >= actors:
            return share
    together = -(-actors // sum(cpus))
    return int(1e4 / together) / 1e4  # Ray counts in steps of so much


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "--ray: the package ray is not installed; expected it beside rellm: "
            "pip install 'rellm[ray]', on every machine of the cluster"
        ) from error
    return ray


def _connect(ray: Any, address: str) -> None:
    # Actors speak through events; a cluster of this command's own reports to nobody.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address, log_to_driver=False, logging_level="error", **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"--ray {address}: no cluster answers ({error}); expected one started with "
            "`ray start --head`, its address as host:port, `auto`, or `local` for this machine"
        ) from error
