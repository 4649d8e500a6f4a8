"""Licences of the models and corpora that made an adapter, and the strictest of them.

A licence comes from a feature store, from the model's own card, or from the list below. Otherwise
it is reported as unknown.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rellm_cache.config.schema import LLMConfig
from rellm_cache.data.streams import FrameSource
from rellm_cache.errors import ConfigError
from rellm_cache.runs.provenance import OTHER_CORPUS, DataSummary
from rellm_cache.runs.weights import load_info
from rellm_cache.utils.model_files import UNKNOWN_LICENCE, locate_model, stated_licence

UNKNOWN = UNKNOWN_LICENCE
NO_MODEL = "none"  # prefix of the licence of an encoder without a model
QWEN = "Tongyi Qianwen licence agreement"
KNOWN_MODELS = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": "Apache-2.0",
    "Qwen/Qwen2.5-7B-Instruct": "Apache-2.0",
    "Qwen/Qwen-7B-Chat": QWEN,
    "Qwen-7B-Chat-Qwen2": QWEN,  # the folder that `rellm import qwen` writes
}
RESEARCH = "research agreement"
CORPUS_LICENCES = {
    "iemocap": RESEARCH,
    "esd": RESEARCH,
    "msp-podcast": RESEARCH,
    "ravdess": "CC-BY-NC-SA-4.0",
    "demo": "Apache-2.0",
}
# Licence names of the model hub; it has no names for other licences.
HUB_NAMES = {"mit": "mit", "apache-2-0": "apache-2.0", "cc-by-nc-sa-4-0": "cc-by-nc-sa-4.0"}
PERMISSIVE = ("mit", "apache-2.0")  # the second is a little stricter


@dataclass(frozen=True)
class LicensedPart:
    """A model or corpus (`kind`) that made an adapter, and its licence or `unknown`."""

    name: str
    kind: str
    licence: str

    @property
    def hub_name(self) -> str:
        """The hub's name of the licence, or empty."""
        return HUB_NAMES.get(re.sub(r"[^a-z0-9]+", "-", self.licence.lower()), "")

    @property
    def forbids_commerce(self) -> bool:
        """Whether the licence allows non-commercial use only."""
        words = re.split(r"[^a-z0-9]+", self.licence.lower())
        return "nc" in words or self.licence == RESEARCH


@dataclass(frozen=True)
class Licences:
    """Licences of all models and corpora that made an adapter."""

    parts: tuple[LicensedPart, ...]

    @property
    def non_commercial(self) -> tuple[LicensedPart, ...]:
        """Parts that allow non-commercial use only."""
        return tuple(part for part in self.parts if part.forbids_commerce)

    @property
    def unknown(self) -> tuple[LicensedPart, ...]:
        """Parts with an unknown licence."""
        return tuple(part for part in self.parts if part.licence == UNKNOWN)

    @property
    def strictest(self) -> LicensedPart | None:
        """The part with the strictest licence; None without any part.

        Strictest first: non-commercial, unknown, a model's own agreement, permissive.
        """

        def rank(part: LicensedPart) -> int:
            if part.forbids_commerce:
                return 5 if part.hub_name else 4
            if part.licence == UNKNOWN:
                return 3
            return PERMISSIVE.index(part.hub_name) if part.hub_name in PERMISSIVE else 2

        return max(self.parts, key=rank, default=None)


def model_licence(model: str, revision: str = "") -> str:
    """Licence of a chat model: from its own card, else from the list above, else `unknown`."""
    try:
        stated = stated_licence(locate_model(model, revision))
    except ConfigError:
        stated = ""
    return stated or KNOWN_MODELS.get(model, UNKNOWN)


def model_licences(
    llm: LLMConfig | None, sources: Iterable[FrameSource], init_from: str = ""
) -> dict[str, str]:
    """Licence of each model that a run uses, by name, and of the run that it starts from."""
    found = load_info(Path(init_from)).licences if init_from else {}
    found = found | {source.spec.model or source.spec.kind: source.licence for source in sources}
    if llm is not None:
        found[llm.model] = model_licence(llm.model, llm.revision)
    return found


def combine_licences(licences: Mapping[str, str], data: DataSummary) -> Licences:
    """Combine the licences of models, by name, with those of the training corpora."""
    models = [
        LicensedPart(name, "model", licence or UNKNOWN)
        for name, licence in licences.items()
        if not licence.startswith(NO_MODEL)
    ]
    corpora = [
        LicensedPart(name, "corpus", CORPUS_LICENCES.get(name, UNKNOWN)) for name in data.corpora
    ]
    return Licences((*models, *corpora))


def describe_corpus_conditions(data: DataSummary) -> list[str]:
    """Conditions of the corpora in addition to their licences, as sentences."""
    sentences = []
    if any(CORPUS_LICENCES.get(name) == RESEARCH for name in data.corpora):
        sentences.append(
            "Its recordings and transcripts may not be passed on. This folder holds none of them: "
            "no audio, no texts and no responses made from them."
        )
    if OTHER_CORPUS in data.corpora:
        sentences.append("Whoever publishes must know the terms of their own corpus.")
    return sentences
