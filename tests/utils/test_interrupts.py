"""Ctrl-C: the first ends the work, the second is answered, the third ends the end."""

import signal
import threading
from collections.abc import Iterator

import pytest

from rellm_cache.utils.interrupts import NOTICE, Interrupts


@pytest.fixture(autouse=True)
def usual_handler() -> Iterator[None]:
    """Whatever happens, Ctrl-C is in the end as it was."""
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_the_second_is_answered_and_the_third_is_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    done = []

    def work() -> None:
        with Interrupts():
            try:
                press()
                done.append("more work")
            finally:
                press()
                done.append("kept")
                press()
                done.append("closed")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["kept"]
    assert capsys.readouterr().err == NOTICE + "\n"


def test_one_while_it_finishes_is_raised_when_it_is_done() -> None:
    done = []

    def work() -> None:
        with Interrupts() as interrupts:
            interrupts.finishing(lambda: done.append("stopped"))
            press()
            done.append("kept")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["stopped", "kept"]


def test_what_fails_meanwhile_is_told() -> None:
    def work() -> None:
        with Interrupts() as interrupts:
            interrupts.finishing()
            press()
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        work()


def test_where_it_is_not_ours_to_handle_nothing_is_changed() -> None:
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
