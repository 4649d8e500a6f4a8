"""Ctrl-C: the first ends the work, the second prints a notice, the third stops the saving."""

import signal
import threading
from collections.abc import Iterator

import pytest

from rellm_cache.utils.interrupts import NOTICE, Interrupts


@pytest.fixture(autouse=True)
def usual_handler() -> Iterator[None]:
    """The handler of SIGINT is restored after every test."""
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_the_second_prints_a_notice_and_the_third_stops(capsys: pytest.CaptureFixture[str]) -> None:
    done = []

    def work() -> None:
        with Interrupts():
            try:
                press()
                done.append("more work")
            finally:
                press()
                done.append("saved")
                press()
                done.append("closed")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["saved"]
    assert capsys.readouterr().err == NOTICE + "\n"


def test_ctrl_c_while_finishing_is_raised_at_the_end() -> None:
    done = []

    def work() -> None:
        with Interrupts() as interrupts:
            interrupts.finishing(lambda: done.append("stopped"))
            press()
            done.append("saved")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["stopped", "saved"]


def test_an_error_while_finishing_is_raised() -> None:
    def work() -> None:
        with Interrupts() as interrupts:
            interrupts.finishing()
            press()
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        work()


def test_other_handlers_and_threads_are_left_alone() -> None:
    with Interrupts():
        pass
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        press()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with Interrupts():
                pass
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed
