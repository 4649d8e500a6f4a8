"""What makes a text LLM's predictions what they are. In: its settings. Out: a store's identity."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from rellm_cache.config import StoredSpec


@dataclass(frozen=True)
class TeacherSpec(StoredSpec):
    """The text LLM that speech is taught by, and what is kept of its distribution.

    A frame of its store is a row of `rellm_cache.llm.teacher`, one for each token of a response.

    Attributes:
        kind: always "teacher".
        model: hub id or local folder.
        weights: SHA-256 over the model's files.
        quantization, template: as in a recipe's `[llm]`.
        system, prompt: wording of the request that a response answers, placeholders not filled in.
        top_k: K, tokens told apart.
        temperature: that logits are divided by.
        dtype: of stored values.
        version: of our own code; raised when the same model would give other rows.
    """

    command: ClassVar[str] = "rellm respond --teacher"

    model: str
    weights: str
    quantization: str
    template: str
    system: str
    prompt: str
    top_k: int
    temperature: float
    kind: Literal["teacher"] = "teacher"
    dtype: Literal["float32"] = "float32"
    version: int = 1

    @property
    def slug(self) -> str:
        """A short folder-safe name, as in `smollm2-135m-instruct-teacher`."""
        return f"{Path(self.model).name.lower()}-teacher"

    @property
    def frame_size(self) -> int:
        """Values of a row: ids and log-probabilities of K tokens, and one for the rest."""
        return 2 * self.top_k + 1

    def to_json(self) -> dict[str, Any]:
        """All fields, as a store's attributes hold them."""
        return dataclasses.asdict(self)
