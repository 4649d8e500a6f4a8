"""What waits for a disk is bounded in bytes."""

import threading

from rellm_cache.extraction.byte_semaphore import Backlog


def test_what_has_no_room_waits_until_something_is_written() -> None:
    backlog, entered = Backlog(10), threading.Event()
    backlog.add(6)
    backlog.add(4)

    def work() -> None:
        backlog.add(5)
        entered.set()

    late = threading.Thread(target=work)
    late.start()
    backlog.remove(4)
    assert not entered.wait(0.05)  # 6 and 5 are too many
    backlog.remove(6)
    late.join()
    assert entered.is_set()


def test_what_is_larger_than_all_room_waits_alone() -> None:
    backlog = Backlog(10)
    backlog.add(50)
    backlog.remove(50)
    backlog.add(50)
