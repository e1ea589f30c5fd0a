"""What a running task holds in its hand: who it is, checkpointed steps, messages to emit, CPU work outside the loop."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic_core import from_json, to_json

from eco_workers import headers
from eco_workers.errors import TaskFailedError
from eco_workers.journal.model import Emit, Running, TaskJournal
from eco_workers.tasks.resources import Resources

if TYPE_CHECKING:
    from eco_workers.sync.sessions import Session

T = TypeVar("T")
EMITS_MAX: Final = 100
RESULT_BYTES_MAX: Final = 1 << 20


class Context:
    """Handed to a task's function; lives as long as one attempt."""

    def __init__(self, running: Running, journal: TaskJournal, resources: Resources) -> None:
        self._running = running
        self._journal = journal
        self._emits: list[Emit] = []
        self._emitted = 0
        self.resources = resources

    @property
    def task_id(self) -> str:
        """Id of the task: a key that an effect can be made once under."""
        return self._running.task_id

    @property
    def attempt(self) -> int:
        """This attempt, from 1."""
        return self._running.attempt

    @property
    def recovered(self) -> bool:
        """Whether an earlier process of this journal had begun the task."""
        return self._running.recovered

    def emit(
        self, name: str, payload: Mapping[str, Any], *, routing_key: str, headers_: Mapping[str, str] | None = None
    ) -> None:
        """Send a task of that name once this one (or the step around it) is durable; never when it fails."""
        if self._emitted >= EMITS_MAX:
            raise TaskFailedError(f"emit {name!r}: more than {EMITS_MAX} messages from one task")
        self._emitted += 1
        carried = {key: value for key, value in self._running.headers.items() if key == headers.TRACEPARENT}
        self._emits.append(
            Emit(
                routing_key=routing_key,
                body=to_json(dict(payload)),
                headers={headers.TASK_NAME: name, **carried, **(headers_ or {})},
            ),
        )

    async def step(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        """Run a part once: a later attempt gets the stored result and does not run it again. The result is JSON."""
        known = self._running.steps.get(name)
        if known is not None:
            found: T = from_json(known)
            return found
        result = await work()
        await self._journal.step(self.task_id, name, encode(result), emits=self.take_emits())
        return result

    async def heartbeat(self) -> None:
        """Tell that a long task makes progress."""
        await self._journal.heartbeat(self.task_id)

    @asynccontextmanager
    async def postgres_session(self, database: str) -> AsyncIterator["Session"]:
        """A connection to a database in a transaction of its own, committed at the end of the block.

            async with context.postgres_session("ecoeco_waste") as connection:
                await connection.execute("INSERT … ON CONFLICT (task_id) DO NOTHING", context.task_id)

        The task may run more than once, so a statement must be harmless the second time. Raises
        DatabaseUnavailableError, which the retry policy answers, when that database does not serve.
        """
        async with (await self.resources.sessions()).session(database) as connection:
            yield connection

    async def in_process(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run CPU work in another process, so that the loop goes on. Arguments and result must be picklable."""
        return await self.resources.processes.run(function, *arguments)

    def take_emits(self) -> list[Emit]:
        """What was emitted since the last checkpoint; the caller writes it."""
        taken, self._emits = self._emits, []
        return taken


def encode(result: object) -> bytes:
    """A result as JSON; raises TaskFailedError for one that is none or too large."""
    try:
        encoded = to_json(result, inf_nan_mode="null")
    except ValueError as error:
        raise TaskFailedError(f"result: cannot be written as JSON: {error}") from None
    if len(encoded) > RESULT_BYTES_MAX:
        raise TaskFailedError(f"result: {len(encoded)} bytes, want at most {RESULT_BYTES_MAX}")
    return encoded
