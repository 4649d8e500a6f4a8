"""JSON files: reading one object, with errors that name the file and the fix."""

import json
from pathlib import Path
from typing import Any

from rellm_cache.errors import RellmError


def read_object(path: Path, error: type[RellmError], fix: str) -> dict[str, Any]:
    """Read the JSON object in a file.

    Raises `error` if the file cannot be read or holds no object; its message ends with `fix`.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as found:
        raise error(f"{path}: cannot be read ({found}); {fix}") from found
    except ValueError as found:  # includes UnicodeDecodeError
        raise error(f"{path}: not JSON ({found}); {fix}") from found
    if not isinstance(content, dict):
        raise error(f"{path}: expected a JSON object, found {content!r:.40}; {fix}")
    return content
