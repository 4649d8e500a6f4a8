"""Litter: files that operating systems and file servers leave in folders."""

import re
from pathlib import Path

_LITTER = re.compile(
    r"\._.*|\.DS_Store|\.Spotlight-V100|\.Trashes|\.fseventsd"  # macOS
    r"|Thumbs\.db|desktop\.ini"  # Windows
    r"|\.nfs[0-9a-f]+|\.fuse_hidden[0-9a-f]+|\.directory|@eaDir",  # file servers and others
    re.IGNORECASE,
)


def is_litter(path: Path) -> bool:
    """Whether a name is one that only an operating system or a file server gives."""
    return _LITTER.fullmatch(path.name) is not None
