"""The queue between what was seen and what is done about it.

A key is in here at most once: however many events name it, it is looked at once, and never twice at the same time. A
key that comes while it is being worked on comes again afterwards. A key that failed comes back after a pause that
doubles from `backoff_s_min` to `backoff_s_max`, with jitter, until it succeeds once. A key put last gives way to what
is ready and to what holds back the last, for `last_s_max` seconds.
"""

import asyncio
import heapq
import random
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)


@dataclass(frozen=True, slots=True)
class QueueStatistics:
    """How the queue stands at one moment."""

    ready: int
    running: int
    delayed: int
    failing: int
    oldest_ready_s: float
    dropped: int


@dataclass(slots=True)
class KeyQueue(Generic[KeyT]):
    """Keys to look at; serial per key, coalesced, bounded by `keys_max` distinct keys."""

    backoff_s_min: float = 1.0
    backoff_s_max: float = 300.0
    keys_max: int = 100_000
    last_s_max: float = 15.0
    rng: random.Random = field(default_factory=random.Random)
    _ready: dict[KeyT, float] = field(default_factory=dict)
    _last: dict[KeyT, None] = field(default_factory=dict)
    _running: set[KeyT] = field(default_factory=set)
    _gives_way: set[KeyT] = field(default_factory=set)
    """Of the running ones those that are put last when they are done."""
    _holds_back: set[KeyT] = field(default_factory=set)
    """Of the running ones those that the last wait for."""
    _again: set[KeyT] = field(default_factory=set)
    _due: dict[KeyT, float] = field(default_factory=dict)
    _heap: list[tuple[float, int, KeyT]] = field(default_factory=list)
    _failures: dict[KeyT, int] = field(default_factory=dict)
    _wakeup: asyncio.Event = field(default_factory=asyncio.Event)
    _serial: int = 0
    _dropped: int = 0

    def add(self, key: KeyT, *, after_s: float = 0.0, patient: bool = False) -> None:
        """Have `key` looked at, now or in `after_s` seconds; an earlier appointment stays, a later one gives way.

        A `patient` call (a probe, the resync) does not cut short the pause of a key that failed; an edit does.
        """
        if patient and key in self._failures and key in self._due:
            return
        if after_s > 0:
            self._add_later(key, after_s)
            return
        self._due.pop(key, None)
        self._last.pop(key, None)
        if key in self._running:
            self._again.add(key)
        elif key not in self._ready:
            if len(self._ready) >= self.keys_max:
                # Nothing is forgotten for good: the next resync names every key again.
                self._dropped += 1
                return
            self._ready[key] = _now()
            self._wakeup.set()

    def put_last(self, key: KeyT) -> None:
        """Have a key that is being worked on come again after others, and with it what has come for it until now.

        It comes when none is ready and none holds back the last, when it is added, and in `last_s_max` seconds at the
        latest.
        """
        self._again.discard(key)
        self._gives_way.add(key)

    def hold_back_last(self, key: KeyT) -> None:
        """Have those put last wait until this key, which is being worked on, is done."""
        self._holds_back.add(key)

    def has_others(self, key: KeyT) -> bool:
        """Whether another key is ready, or holds back the last."""
        return bool(self._ready) or bool(self._holds_back - {key})

    def _add_later(self, key: KeyT, after_s: float) -> None:
        if key in self._ready or key in self._again:
            return
        due = _now() + after_s
        if due >= self._due.get(key, float("inf")):
            return
        if key not in self._due and len(self._due) >= self.keys_max:
            self._dropped += 1
            return
        self._due[key] = due
        self._serial += 1
        heapq.heappush(self._heap, (due, self._serial, key))
        self._wakeup.set()

    async def get(self) -> KeyT:
        """The key that waited longest, once there is one that nobody works on; `done` must follow."""
        while True:
            pause_s = self._promote()
            if self._ready:
                key = next(iter(self._ready))
                del self._ready[key]
                return self._take(key)
            if self._last and not self._holds_back:
                key = next(iter(self._last))
                del self._last[key]
                self._due.pop(key, None)
                return self._take(key)
            self._wakeup.clear()
            try:
                async with asyncio.timeout(pause_s):
                    await self._wakeup.wait()
            except TimeoutError:
                continue

    def _take(self, key: KeyT) -> KeyT:
        self._running.add(key)
        if self._ready or self._last:
            self._wakeup.set()
        return key

    def done(self, key: KeyT, *, failed: bool = False, retry_after_s: float | None = None) -> float | None:
        """End the work on `key`. Returns the pause before its next try when it failed, else None."""
        self._running.discard(key)
        self._holds_back.discard(key)
        gives_way = key in self._gives_way
        self._gives_way.discard(key)
        pause_s = None
        if failed:
            pause_s = self._pause(key, retry_after_s)
            # What came in the meantime must not run round the pause, or a failing key spins.
            self._again.discard(key)
            self._add_later(key, pause_s)
        else:
            self._failures.pop(key, None)
            if key in self._again:
                self._again.discard(key)
                self.add(key)
            elif gives_way:
                self._add_later(key, self.last_s_max)
                self._last[key] = None
        if self._last:
            self._wakeup.set()
        return pause_s

    def _pause(self, key: KeyT, retry_after_s: float | None) -> float:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        backoff_s = min(self.backoff_s_max, self.backoff_s_min * 2.0 ** min(failures, 30))
        jittered_s = backoff_s * self.rng.uniform(0.75, 1.0)
        return max(jittered_s, min(retry_after_s or 0.0, self.backoff_s_max))

    def _promote(self) -> float | None:
        """Move what is due to the ready keys; returns seconds until the next appointment."""
        now = _now()
        while self._heap:
            due, _, key = self._heap[0]
            if self._due.get(key) != due:
                heapq.heappop(self._heap)
                continue
            if due > now:
                return due - now
            heapq.heappop(self._heap)
            self.add(key)
        return None

    def statistics(self) -> QueueStatistics:
        """How the queue stands now."""
        now = _now()
        return QueueStatistics(
            ready=len(self._ready),
            running=len(self._running),
            delayed=len(self._due),
            failing=len(self._failures),
            oldest_ready_s=now - next(iter(self._ready.values())) if self._ready else 0.0,
            dropped=self._dropped,
        )


def _now() -> float:
    return asyncio.get_running_loop().time()
