"""Public Python API of rellm: `import rellm_cache as rellm`.

Frozen speech encoders run once into a cache; adapters train from it. Each name is imported when it
is first used, so importing the package loads no torch. docs/python.md has an example of each.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rellm_cache.errors import RellmError
from rellm_cache.version import __version__ as __version__

if TYPE_CHECKING:
    from rellm_cache.api import (
        benchmark,
        embed,
        evaluate,
        extract,
        load_recipe,
        load_run,
        loader,
        open_store,
        plan,
        prepare,
        prepare_folds,
        probe,
        sweep,
        train,
    )
    from rellm_cache.config.schema import Recipe
    from rellm_cache.corpus.manifest import Utterance
    from rellm_cache.corpus.readers.base import Corpus
    from rellm_cache.corpus.readers.registry import register_corpus
    from rellm_cache.data.batch import Batch
    from rellm_cache.data.epochs import Loader
    from rellm_cache.encoders.base import Encoding, FrameEncoder
    from rellm_cache.encoders.registry import register_encoder
    from rellm_cache.inference.responders import Recognition
    from rellm_cache.inference.trained_run import Answer, Embedding, Run
    from rellm_cache.model.adapter import Adapter
    from rellm_cache.model.losses.registry import LossContext, Outputs, register_loss
    from rellm_cache.model.registry import register_adapter
    from rellm_cache.store.mapping import Store
    from rellm_cache.training.callbacks import STOP, Callback, EpochReport, StepReport, TrainReport

__all__ = [
    "STOP",
    "Adapter",
    "Answer",
    "Batch",
    "Callback",
    "Corpus",
    "Embedding",
    "Encoding",
    "EpochReport",
    "FrameEncoder",
    "Loader",
    "LossContext",
    "Outputs",
    "Recipe",
    "Recognition",
    "RellmError",
    "Run",
    "StepReport",
    "Store",
    "TrainReport",
    "Utterance",
    "benchmark",
    "embed",
    "evaluate",
    "extract",
    "load_recipe",
    "load_run",
    "loader",
    "open_store",
    "plan",
    "prepare",
    "prepare_folds",
    "probe",
    "register_adapter",
    "register_corpus",
    "register_encoder",
    "register_loss",
    "sweep",
    "train",
]

_MODULE_OF = {  # below rellm_cache; other functions are in `api`
    "STOP": "training.callbacks",
    "Adapter": "model.adapter",
    "Answer": "inference.trained_run",
    "Batch": "data.batch",
    "Callback": "training.callbacks",
    "Corpus": "corpus.readers.base",
    "Embedding": "inference.trained_run",
    "Encoding": "encoders.base",
    "EpochReport": "training.callbacks",
    "FrameEncoder": "encoders.base",
    "Loader": "data.epochs",
    "LossContext": "model.losses.registry",
    "Outputs": "model.losses.registry",
    "Recipe": "config.schema",
    "Recognition": "inference.responders",
    "Run": "inference.trained_run",
    "StepReport": "training.callbacks",
    "Store": "store.mapping",
    "TrainReport": "training.callbacks",
    "Utterance": "corpus.manifest",
    "register_adapter": "model.registry",
    "register_corpus": "corpus.readers.registry",
    "register_encoder": "encoders.registry",
    "register_loss": "model.losses.registry",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF.get(name, 'api')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
