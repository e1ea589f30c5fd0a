"""The decorator that makes an async function a task, and the set of tasks that a process knows.

    @task("report.make", queue="q.batch", time_limit_s=120)
    async def make(context: Context, payload: ReportRequest) -> dict[str, str]: ...

The payload is a pydantic model (or `dict`), the result any JSON. A payload that the model refuses fails the task at
once: another attempt would not change it.
"""

import importlib
import inspect
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, get_type_hints

from pydantic import TypeAdapter, ValidationError

from eco_workers.errors import InvalidTaskError, SettingsError, TaskFailedError
from eco_workers.tasks.context import Context

TaskFunction = Callable[[Context, Any], Awaitable[Any]]
TIME_LIMIT_DEFAULT_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When and how often a task is tried again: 60·2ⁿ seconds, spread by chance, with a cap."""

    attempts_max: int = 10
    first_s: float = 60.0
    cap_s: float = 600.0
    jitter: float = 0.2
    """Share of the pause by which it may be shorter or longer."""

    def pause_s(self, attempt: int) -> float:
        """The pause after the given attempt, which counts from 1."""
        pause = min(self.cap_s, self.first_s * 2.0 ** min(attempt - 1, 60))
        return pause * random.uniform(1 - self.jitter, 1 + self.jitter)  # noqa: S311  # spreading load is no secret


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of work."""

    name: str
    queue: str
    function: TaskFunction
    time_limit_s: float
    retry: RetryPolicy
    payload: TypeAdapter[Any]
    description: str

    def parse(self, payload: bytes) -> Any:
        """The payload as the function wants it; raises TaskFailedError that names the field."""
        try:
            return self.payload.validator.validate_json(payload)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in problem["loc"]) or "payload"
            raise TaskFailedError(f"payload of {self.name}: {place}: {problem['msg']}") from None


@dataclass(slots=True)
class Registry:
    """The tasks that a process knows, by name."""

    tasks: dict[str, Task] = field(default_factory=dict)

    def add(self, new: Task) -> None:
        """Add one; raises InvalidTaskError for a name that is taken by another function."""
        known = self.tasks.get(new.name)
        if known is not None and known.function is not new.function:
            raise InvalidTaskError(f"task {new.name!r} is defined twice: {_where(known)} and {_where(new)}")
        self.tasks[new.name] = new

    def names(self) -> frozenset[str]:
        """Names of all tasks."""
        return frozenset(self.tasks)

    def __getitem__(self, name: str) -> Task:
        return self.tasks[name]


def task(
    name: str,
    *,
    queue: str,
    time_limit_s: float = TIME_LIMIT_DEFAULT_S,
    retry: RetryPolicy | None = None,
) -> Callable[[TaskFunction], TaskFunction]:
    """Mark an async function `(context, payload)` as the task of that name."""

    def mark(function: TaskFunction) -> TaskFunction:
        if not inspect.iscoroutinefunction(function):
            raise InvalidTaskError(f"task {name!r}: {function!r} is no async function")
        parameters = list(inspect.signature(function).parameters)
        if len(parameters) != 2:
            raise InvalidTaskError(f"task {name!r}: takes {len(parameters)} arguments, want context and payload")
        hint = get_type_hints(function).get(parameters[1], dict[str, Any])
        made = Task(
            name=name,
            queue=queue,
            function=function,
            time_limit_s=time_limit_s,
            retry=retry or RetryPolicy(),
            payload=TypeAdapter(hint),
            description=(inspect.getdoc(function) or "").partition("\n")[0],
        )
        function.__eco_task__ = made  # type: ignore[attr-defined]  # found again by `collect`
        return function

    return mark


ROLE_MODULES: Final[Mapping[str, tuple[str, ...]]] = {"storage": ("eco_workers.tasks.images",)}


def collect(modules: Iterable[str]) -> Registry:
    """Import modules and take up every task that they define; raises SettingsError for one that cannot be imported."""
    registry = Registry()
    for name in modules:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise SettingsError(f"ECO_TASK_MODULES: module {name!r} cannot be imported: {error}") from error
        for value in vars(module).values():
            made = getattr(value, "__eco_task__", None)
            if isinstance(made, Task):
                registry.add(made)
    return registry


def _where(known: Task) -> str:
    return f"{known.function.__module__}.{getattr(known.function, '__qualname__', '?')}"
