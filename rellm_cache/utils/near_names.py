"""Names of files near a path that does not exist, for error messages."""

import difflib
import os
from pathlib import Path

from rellm_cache.utils.regular_files import folder_exists

MOST_NAMES = 2


def did_you_mean(path: Path) -> str:
    """Return "; did you mean …?" with the files of the nearest names in its folder, or "".

    Of a path with a missing folder, the folder is compared with its neighbours.
    """
    folder, name = path.parent, path.name
    while not folder_exists(folder) and folder.name:
        folder, name = folder.parent, folder.name
    try:
        found = difflib.get_close_matches(name, os.listdir(folder), MOST_NAMES, 0.75)
    except OSError:
        return ""
    return f"; did you mean {' or '.join(str(folder / near) for near in found)}?" if found else ""
