"""HDF5 probe: checks the structure of a file in a process of its own.

The HDF5 library can hang or crash at damaged bytes. `require_readable` therefore reads everything
but the frames in another process first. No link is followed: neither a link to another file nor a
soft link, and no array may lie in another file.
"""

import resource
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np

from rellm_cache.errors import StoreError
from rellm_cache.utils.regular_files import require_regular

SECONDS = 60.0  # a file of a thousand parts takes a few
MEMORY_BYTES = 8 << 30  # of the other process
DEFLATE_RATIO = 1032  # the largest of the usual compressions
EXPECTED = "expected a file that `rellm cache export` wrote; export it again"


def require_readable(file: Path, seconds: float = SECONDS) -> None:
    """Raise `StoreError` if a file is not HDF5, has links, or cannot be read in so many seconds."""
    require_regular(file, StoreError, EXPECTED)
    command = [sys.executable, "-m", __name__, str(file.absolute())]
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise StoreError(
            f"{file}: damaged (the HDF5 library reads it without end); {EXPECTED}"
        ) from error
    problem = done.stdout.decode(errors="replace").strip()
    if done.returncode < 0:
        problem = f"damaged (the HDF5 library ends with signal {-done.returncode})"
    elif done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        problem = f"damaged ({' '.join(last)[:200]})"
    if problem:
        raise StoreError(f"{file}: {problem}; {EXPECTED}")


def find_problem(file: Path) -> str:
    """The first thing in a file that no export has; empty if there is none.

    Raises any error of h5py at damaged bytes.
    """
    with h5py.File(file, "r") as source:
        _read_attributes(source)
        for name in source:
            if problem := _link_problem(source, name):
                return problem
            group = source[name]
            if not isinstance(group, h5py.Group):
                continue
            _read_attributes(group)
            for own in group:
                if problem := _link_problem(group, own):
                    return problem
                array = group[own]
                if isinstance(array, h5py.Dataset) and (problem := _array_problem(array)):
                    return problem
    return ""


def _link_problem(group: h5py.Group, name: str) -> str:
    link = group.get(name, getlink=True)
    where = f"{group.name.rstrip('/')}/{name}"
    if isinstance(link, h5py.ExternalLink):
        return f"found {where}, a link to {link.path!r} in the file {link.filename!r}"
    if isinstance(link, h5py.SoftLink):
        return f"found {where}, a link to {link.path!r}"
    return ""


def _array_problem(array: h5py.Dataset) -> str:
    """What is wrong with an array; its values are read unless they are frames, (F, D)."""
    if array.external:
        return f"found {array.name} in another file, {array.external[0][0]!r}"
    if array.is_virtual:
        return f"found {array.name}, which is made of arrays in other files"
    if array.shape is None or array.dtype.kind not in "iuf":
        return f"found {array.name} with {array.dtype}, expected numbers"
    promised = int(np.prod([int(n) for n in array.shape], dtype=object)) * array.dtype.itemsize
    held = array.id.get_storage_size() * (DEFLATE_RATIO if array.compression else 1)
    if promised > held:
        return f"found {array.name} with shape {array.shape}, {promised} bytes, but {held} in it"
    if array.chunks is not None:
        array.id.get_num_chunks()
    if array.name.rpartition("/")[2] != "frames":
        array[()]
    return ""


def _read_attributes(group: h5py.Group) -> None:
    for name in group.attrs:
        group.attrs[name]


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    print(find_problem(Path(sys.argv[1])))
