"""Time limits of many tasks with one timer.

`asyncio.timeout` arms and disarms a timer of the loop for each task; in a worker of short tasks that alone was a sixth
of the loop's time (measured with uvloop, 256 tasks at once). Here the loop has one timer, for the deadline that comes
first, and nothing is disarmed when a task ends in time: the timer then finds nothing to do.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

RESOLUTION_S: Final = 0.001


@dataclass(slots=True, eq=False)
class Deadline:
    """One running task and when it has to be over."""

    task: asyncio.Task[None]
    at: float
    """By the loop's clock."""
    expired: bool = False
    """The task was cancelled because of this deadline."""


class Deadlines:
    """Cancels tasks whose time is up."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._open: set[Deadline] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")

    def enter(self, limit_s: float, task: "asyncio.Task[None] | None" = None) -> Deadline:
        """Give a task so many seconds from now; without one named, the current one."""
        task = task or asyncio.current_task()
        assert task is not None  # noqa: S101  # called from inside a task only
        deadline = Deadline(task, self._loop.time() + limit_s)
        self._open.add(deadline)
        if deadline.at < self._timer_at:
            self._arm(deadline.at)
        return deadline

    def leave(self, deadline: Deadline) -> None:
        """The task is over, in time or not."""
        self._open.discard(deadline)

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._fire)

    def _fire(self) -> None:
        now = self._loop.time() + RESOLUTION_S
        due = [deadline for deadline in self._open if deadline.at <= now and not deadline.expired]
        for deadline in sorted(due, key=lambda each: each.at):
            deadline.expired = True
            deadline.task.cancel()
        self._timer, self._timer_at = None, float("inf")
        waiting = [deadline.at for deadline in self._open if not deadline.expired]
        if waiting:
            self._arm(min(waiting))
