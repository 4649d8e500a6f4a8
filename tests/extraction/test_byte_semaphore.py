"""The byte semaphore blocks above its limit."""

import threading

from rellm_cache.extraction.byte_semaphore import ByteSemaphore


def test_a_request_above_the_limit_waits_for_a_release() -> None:
    semaphore, entered = ByteSemaphore(10), threading.Event()
    semaphore.acquire(6)
    semaphore.acquire(4)

    def acquire() -> None:
        semaphore.acquire(5)
        entered.set()

    late = threading.Thread(target=acquire)
    late.start()
    semaphore.release(4)
    assert not entered.wait(0.05)  # 6 and 5 are too many
    semaphore.release(6)
    late.join()
    assert entered.is_set()


def test_a_request_larger_than_the_limit_is_granted_alone() -> None:
    semaphore, entered = ByteSemaphore(10), threading.Event()
    semaphore.acquire(50)

    def acquire() -> None:
        semaphore.acquire(50)
        entered.set()

    late = threading.Thread(target=acquire)
    late.start()
    assert not entered.wait(0.05)
    semaphore.release(50)
    late.join()
    assert entered.is_set()
