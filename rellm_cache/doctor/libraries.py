"""Versions of Python and of the installed libraries, beside those that rellm needs."""

import platform
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Final

from packaging.requirements import Requirement

from rellm_cache.doctor.checks import Check
from rellm_cache.version import __version__

PACKAGE: Final = "rellm"
GROUP: Final = "libraries"
# What a user may add; the others are for developers.
EXTRAS: Final = ("s3", "ray", "datasets", "parquet", "demo")
# The sounds that the readers promise, by libsndfile's names.
FORMATS: Final = ("WAV", "FLAC", "OGG", "MP3")


def check_libraries() -> list[Check]:
    """Check the version of every library that rellm needs, and which extras are complete."""
    found = [Check(GROUP, "rellm", "ok", f"{__version__}, Python {platform.python_version()}")]
    needed = [Requirement(text) for text in requires(PACKAGE) or ()]
    always = [r for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    problems = [problem for r in always if (problem := _problem(r))]
    fix = "pip install " + " ".join(f'"{r}"' for r in always if _problem(r))
    found.append(
        Check(GROUP, "dependencies", "error", "; ".join(problems), fix)
        if problems
        else Check(GROUP, "dependencies", "ok", f"all {len(always)} in the versions needed")
    )
    main = ("torch", "transformers", "bitsandbytes", "zarr")
    versions = ", ".join(f"{name} {version(name)}" for name in main if _installed(name))
    found.append(Check(GROUP, "main libraries", "ok" if versions else "error", versions, ""))
    complete = []
    for extra in EXTRAS:
        parts = [r for r in needed if r.marker and _only_with(r, extra)]
        if parts and not any(map(_problem, parts)):
            complete.append(extra)
    found.append(Check(GROUP, "extras", "ok", f"complete: {', '.join(complete) or 'none'}"))
    found.append(_check_sound_formats())
    return found


def _only_with(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": extra}) > marker.evaluate({"extra": ""})


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _problem(requirement: Requirement) -> str:
    """What is wrong with a requirement here; empty if it is met."""
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is missing"
    if requirement.specifier.contains(found, prereleases=True):
        return ""
    return f"{requirement.name} {found}, expected {requirement.specifier}"


def _check_sound_formats() -> Check:
    import soundfile

    known = soundfile.available_formats()
    missing = [name for name in FORMATS if name not in known]
    name, library = "sound files", f"libsndfile {soundfile.__libsndfile_version__}"
    if missing:
        fix = "pip install --force-reinstall soundfile, whose wheel has a newer libsndfile"
        return Check(GROUP, name, "warning", f"{library} without {', '.join(missing)}", fix)
    return Check(GROUP, name, "ok", f"{library} reads {', '.join(FORMATS)}")
