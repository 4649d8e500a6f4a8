"""Choice of the pool that runs workers: a Ray cluster, or processes of this machine."""

from rellm_cache.workers.coordinator import WorkerPool
from rellm_cache.workers.messages import WorkerTask
from rellm_cache.workers.options import WorkerOptions
from rellm_cache.workers.processes import ProcessPool
from rellm_cache.workers.ray import RayPool


def start_pool(task: WorkerTask, options: WorkerOptions) -> WorkerPool:
    """A pool without workers yet; `ConfigError` if Ray is missing or no cluster answers."""
    if options.ray:
        return RayPool(options.ray, options.workers, task)
    return ProcessPool(options.workers, task)
