"""What an adapter may be used for. In: licences of the models and corpora that made it. Out: terms.

Nothing is guessed: a licence is what a feature store recorded, what a model's own card states, or
one of the few below; any other is unknown, and said to be.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rellm_cache.config.schema import LLMConfig
from rellm_cache.data.streams import FrameSource
from rellm_cache.errors import ConfigError
from rellm_cache.runs.provenance import UNNAMED, DataSummary
from rellm_cache.runs.weights import load_info
from rellm_cache.utils.model_files import locate_model, stated_licence

UNKNOWN = "unknown"
NO_MODEL = "none"  # begins what encoders that are signal processing record
QWEN = "Tongyi Qianwen licence agreement"
KNOWN_MODELS = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": "Apache-2.0",
    "Qwen/Qwen2.5-7B-Instruct": "Apache-2.0",
    "Qwen/Qwen-7B-Chat": QWEN,
    "Qwen-7B-Chat-Qwen2": QWEN,  # what `rellm import qwen` makes of it, as recipes name it
}
RESEARCH = "research agreement"
CORPUS_LICENCES = {
    "iemocap": RESEARCH,
    "esd": RESEARCH,
    "msp-podcast": RESEARCH,
    "ravdess": "CC-BY-NC-SA-4.0",
    "demo": "Apache-2.0",
}
# As a model hub names them; any other licence is told by its own name.
HUB_NAMES = {"mit": "mit", "apache-2-0": "apache-2.0", "cc-by-nc-sa-4-0": "cc-by-nc-sa-4.0"}
PERMISSIVE = ("mit", "apache-2.0")  # the second asks for a little more


@dataclass(frozen=True)
class Term:
    """The licence, or `unknown`, of one model or corpus (`kind`) that made an adapter."""

    name: str
    kind: str
    licence: str

    @property
    def hub_name(self) -> str:
        """As the model hub names it; empty where it has no name for it."""
        return HUB_NAMES.get(re.sub(r"[^a-z0-9]+", "-", self.licence.lower()), "")

    @property
    def forbids_commerce(self) -> bool:
        """Whether it is known to allow non-commercial use only."""
        words = re.split(r"[^a-z0-9]+", self.licence.lower())
        return "nc" in words or self.licence == RESEARCH


@dataclass(frozen=True)
class Terms:
    """Licences of all that made an adapter, and what follows from them."""

    parts: tuple[Term, ...]

    @property
    def non_commercial(self) -> tuple[Term, ...]:
        """Parts that allow non-commercial use only."""
        return tuple(part for part in self.parts if part.forbids_commerce)

    @property
    def unknown(self) -> tuple[Term, ...]:
        """Parts whose licence nobody has stated."""
        return tuple(part for part in self.parts if part.licence == UNKNOWN)

    @property
    def strictest(self) -> Term | None:
        """The part whose licence binds most: non-commercial, then unknown, then an agreement of
        its own, then those that only ask to be named; None without any part."""

        def rank(part: Term) -> int:
            if part.forbids_commerce:
                return 5 if part.hub_name else 4
            if part.licence == UNKNOWN:
                return 3
            return PERMISSIVE.index(part.hub_name) if part.hub_name in PERMISSIVE else 2

        return max(self.parts, key=rank, default=None)


def model_licence(model: str, revision: str = "") -> str:
    """Licence of a chat model: what its own card states, else a known model's, else `unknown`."""
    try:
        stated = stated_licence(locate_model(model, revision))
    except ConfigError:
        stated = ""
    return stated or KNOWN_MODELS.get(model, UNKNOWN)


def licences_of(
    llm: LLMConfig | None, sources: Iterable[FrameSource], init_from: str = ""
) -> dict[str, str]:
    """Licence by name of each model that a run uses, and of those of the run it starts from."""
    found = load_info(Path(init_from)).licences if init_from else {}
    found = found | {source.spec.model or source.spec.kind: source.licence for source in sources}
    if llm is not None:
        found[llm.model] = model_licence(llm.model, llm.revision)
    return found


def terms_of(licences: Mapping[str, str], data: DataSummary) -> Terms:
    """What binds an adapter: licences of its models, by name, and of the corpora it learnt from."""
    models = [
        Term(name, "model", licence or UNKNOWN)
        for name, licence in licences.items()
        if not licence.startswith(NO_MODEL)
    ]
    corpora = [Term(name, "corpus", CORPUS_LICENCES.get(name, UNKNOWN)) for name in data.corpora]
    return Terms((*models, *corpora))


def describe_corpus_terms(data: DataSummary) -> list[str]:
    """What is to be said of the corpora besides their licences, as sentences."""
    said = []
    if any(CORPUS_LICENCES.get(name) == RESEARCH for name in data.corpora):
        said.append(
            "Its recordings and transcripts may not be passed on. None of them is here: neither "
            "audio nor texts nor responses made from them."
        )
    if UNNAMED in data.corpora:
        said.append("Whoever publishes must know the terms of a corpus of their own.")
    return said
