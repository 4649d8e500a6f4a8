"""Many workers, any of which may die. In: batches and a pool. Out: every clip encoded or failed.

Batches are dealt to the workers that are ready, a few to each. When one dies its clips are looked
for in the stores: what it had committed stays, the rest is dealt again. Clips it had in hand are
then dealt alone, so that a clip which kills workers is found, tried `MAX_TRIES` times and listed
as failed. The stores, not the workers' messages, say what is committed.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

from rellm_cache.errors import WorkersError
from rellm_cache.extraction.messages import (
    Batch,
    BatchDone,
    Broken,
    Died,
    Event,
    Failure,
    Finished,
    Note,
    Ready,
    Work,
)
from rellm_cache.extraction.missing import Target, find_lost
from rellm_cache.extraction.pipeline import BATCHES_IN_HAND
from rellm_cache.utils.console import Tick, counted

MAX_TRIES = 3  # deaths with one clip in hand
MAX_FRUITLESS = 3  # deaths in a row, for each worker, of workers that had nothing in hand
RECALL_SECONDS = 60.0  # for living workers to commit when one has met an error


class Handle(Protocol):
    """One worker, seen from here.

    Attributes:
        name: for messages.
    """

    name: str

    def send(self, batch: Batch) -> None:
        """Give it a batch."""
        ...

    def finish(self) -> None:
        """Let it encode what it has, commit and end."""
        ...

    def stop(self) -> None:
        """Let it leave what it has not begun, commit and end."""
        ...


class Pool(Protocol):
    """Starts workers and hears from them.

    Attributes:
        size: workers at a time.
    """

    size: int

    def start(self) -> Handle:
        """Start one more worker; it says `Ready` when it is."""
        ...

    def wait(self, handles: Sequence[Handle], seconds: float | None) -> list[tuple[Handle, Event]]:
        """What has happened, as soon as anything has; empty when `seconds` have passed."""
        ...

    def close(self) -> None:
        """End whatever is still there."""
        ...


@dataclass
class _Member:
    """A worker, and what it has been given."""

    handle: Handle
    ready: bool = False
    finishing: bool = False
    in_hand: dict[int, Batch] = field(default_factory=dict)
    given: dict[str, Work] = field(default_factory=dict)
    ticked: int = 0


class Coordinator:
    """Deals batches to the workers of a pool until every clip is committed or has failed."""

    def __init__(
        self,
        pool: Pool,
        targets: Sequence[Target],
        batches: Sequence[Batch],
        tick: Tick,
        say: Callable[[str], None],
    ) -> None:
        self._pool = pool
        self._targets = targets
        self._waiting = deque(batches)
        self._suspects: deque[Batch] = deque()
        self._members: list[_Member] = []
        self._tries: Counter[str] = Counter()
        self._fruitless = 0
        self._hours = 0.0
        self._numbers = len(batches)
        self._batch_size = max(len(batch.work) for batch in batches)
        self._tick = tick
        self._say = say

    def run(self) -> None:
        """Return when all is done.

        Raises:
            RellmError: a worker met an error that concerns all of them, or none can be kept alive.
        """
        try:
            while self._waiting or self._suspects or any(m.given for m in self._members):
                self._staff()
                self._deal()
                self._listen(None)
        except BaseException:
            self._recall()
            raise
        finally:
            self._pool.close()

    def _staff(self) -> None:
        """Start workers, as many as there may be or as there are batches."""
        taking = sum(not member.finishing for member in self._members)
        wanted = min(self._pool.size, taking + len(self._waiting) + len(self._suspects))
        for _ in range(wanted - taking):
            self._members.append(_Member(self._pool.start()))

    def _deal(self) -> None:
        for member in self._members:
            if not member.ready or member.finishing:
                continue
            while (batch := self._next_for(member)) is not None:
                member.in_hand[batch.number] = batch
                member.given.update((work.utterance.id, work) for work in batch.work)
                member.handle.send(batch)
            if not (member.in_hand or self._waiting or self._suspects):
                member.finishing = True
                member.handle.finish()

    def _next_for(self, member: _Member) -> Batch | None:
        """A suspect only for a worker with empty hands, and then nothing beside it."""
        if not member.in_hand and self._suspects:
            return self._suspects.popleft()
        alone = any(batch.alone for batch in member.in_hand.values())
        if self._waiting and len(member.in_hand) < BATCHES_IN_HAND and not alone:
            return self._waiting.popleft()
        return None

    def _listen(self, seconds: float | None) -> None:
        handles = [member.handle for member in self._members]
        errors: list[Exception] = []
        for handle, event in self._pool.wait(handles, seconds):
            member = next(m for m in self._members if m.handle is handle)
            match event:
                case Ready():
                    member.ready = True
                case BatchDone():
                    self._take(member, event)
                case Note():
                    self._say(f"{handle.name}: {event.text}")
                case Finished():
                    self._members.remove(member)
                    self._fruitless = 0
                case Died():
                    self._members.remove(member)
                    self._bury(member, event.reason)
                case Broken():
                    errors.append(event.error)
        if errors:  # after what else was heard: nobody says twice that he has ended
            raise errors[0]

    def _take(self, member: _Member, done: BatchDone) -> None:
        batch = member.in_hand.pop(done.number)
        for target in self._targets:
            target.take(batch, done)
        member.ticked += len(batch.work)
        self._hours += sum(done.seconds.values()) / 3600
        self._tick(len(batch.work), f"{self._hours:.2f} h of audio")

    def _bury(self, member: _Member, reason: str) -> None:
        """Deal a dead worker's clips again, those it had in hand alone."""
        in_hand = {w.utterance.id for batch in member.in_hand.values() for w in batch.work}
        lost = find_lost(member.given.values(), self._targets)
        self._say(
            f"{member.handle.name} died ({reason}): "
            f"{counted(len(lost), 'clip of its open part is', 'clips of its open part are')} to be "
            "encoded again"
        )
        again = [work for work in lost if work.utterance.id not in in_hand]
        for start in range(0, len(again), self._batch_size):
            self._waiting.append(self._batch(again[start : start + self._batch_size]))
        failed = 0
        for work in lost:
            if work.utterance.id in in_hand:
                failed += self._suspect(work, reason)
        self._tick(len(member.given) - len(lost) + failed - member.ticked)
        if in_hand or len(lost) < len(member.given):
            self._fruitless = 0
            return
        self._fruitless += 1
        if self._fruitless >= MAX_FRUITLESS * self._pool.size:
            raise WorkersError(
                f"{self._fruitless} workers in a row died before they had encoded a clip; the "
                f"last: {reason}. No clip is to blame: each worker loads the models, so try a "
                "smaller --workers; without --workers the cause may show itself"
            )

    def _suspect(self, work: Work, reason: str) -> bool:
        """Whether a clip has killed so many workers that it is given up."""
        clip = work.utterance
        self._tries[clip.id] += 1
        if self._tries[clip.id] < MAX_TRIES:
            self._suspects.append(self._batch([work], alone=True))
            return False
        text = f"{clip.audio}: {MAX_TRIES} workers died with this clip in hand, the last: {reason}"
        for target in self._targets:
            if target.fingerprint in work.lacking:
                target.failed[clip.id] = Failure(clip.id, clip.audio, text)
        return True

    def _batch(self, work: Sequence[Work], alone: bool = False) -> Batch:
        self._numbers += 1
        return Batch(self._numbers, tuple(work), alone)

    def _recall(self) -> None:
        """Let living workers commit what they have."""
        for member in self._members:
            member.handle.stop()
        until = monotonic() + RECALL_SECONDS
        left = [member.handle for member in self._members if member.ready]
        while left and (seconds := until - monotonic()) > 0:
            for handle, event in self._pool.wait(left, seconds):
                if isinstance(event, Finished | Died) and handle in left:
                    left.remove(handle)
