"""The operations on tasks, each in a transaction of its caller: read rows, ask the rules, write rows.

Both journals run these very functions: the SQLite one on its writer thread in a savepoint, the twin on dictionaries.
"""

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from eco_workers.errors import EcoWorkerError, IllegalStateError
from eco_workers.journal import messages, rules
from eco_workers.journal.limits import Limits, clean_error
from eco_workers.journal.model import (
    CachedAnswer,
    Completion,
    Emit,
    Fate,
    NewTask,
    Owner,
    Rejected,
    Running,
    State,
    Unfinished,
    Verdict,
)
from eco_workers.journal.records import At, CacheRow, StepRow, TaskRow, sealed, step_checksum
from eco_workers.journal.rows import Rows
from eco_workers.journal.rules import Standing

EXPIRE_AT_ONCE: Final = 100
RULINGS_KEPT_MAX: Final = 1024
CLOCK_STEP_BACK_S: Final = 1.0
"""A clock that goes back by more than this was set, not slewed."""

_OWNER_TEXTS: Final = {owner: owner.value for owner in Owner}
_NEW: Final = TaskRow(
    id=None,
    checksum=0,
    payload=b"",
    result=None,
    task_id="",
    task_name="",
    queue="",
    headers="{}",
    state=State.PENDING.value,
    owner=Owner.JOURNAL.value,
    generation=0,
    attempts=0,
    version=1,
    messaged=0,
    awaiting_since=None,
    not_before=None,
    due_at=None,
    expires_at=None,
    emits=0,
    incarnation="",
    salvaged=0,
    created_at=0.0,
    started_at=None,
    ended_at=None,
    last_activity=0.0,
    error=None,
    sync_status="pending",
    sync_retry_count=0,
    last_sync_attempt=None,
    sync_error=None,
)
"""What a new row holds beside what its delivery brings."""


@dataclass(slots=True)
class Context:
    """What operations know beside the rows, and what they tell to those who wait."""

    clock: Callable[[], float]
    limits: Limits
    incarnation: str = ""
    epoch: int = 0
    last_now: float = 0.0
    last_ended: float | None = None
    work_since: float | None = None
    known_names: frozenset[str] | None = None
    next_due: float = math.inf
    """No scheduled row becomes due before this: a lower bound, so that a claim need not look for one each time."""
    next_expiry: float = math.inf
    """No pending row expires before this: a lower bound as well."""
    work: bool = False
    """Set when a row may have become due; whoever commits wakes the claimants and clears it."""
    outgoing: bool = False
    """Set when a message was written; whoever commits wakes the relay and clears it."""
    handover: bool = False
    """Set when a row of the broker's passed to the journal or was given back; whoever commits wakes who acks."""
    recovered: int = 0
    opened_at: float = 0.0
    last_checkpoint: float | None = None

    def schedule(self) -> tuple[float, float, float]:
        """What is known of the rows' times: goes back with them when a transaction is undone."""
        return self.last_now, self.next_due, self.next_expiry

    def restore(self, schedule: tuple[float, float, float]) -> None:
        """Know what was known before."""
        self.last_now, self.next_due, self.next_expiry = schedule


class Operations:
    """Operations on the rows of tasks."""

    def __init__(self, rows: Rows, context: Context) -> None:
        self.rows = rows
        self.context = context

    def now(self) -> float:
        """The journal's time. When the clock was set back, rows that may run at once are made due again first."""
        context = self.context
        now = context.clock()
        if now < context.last_now - CLOCK_STEP_BACK_S:
            self.mend_schedule(now)
        context.last_now = now
        return now

    # -- from the broker ------------------------------------------------------------------------------------------

    def accept(self, tasks: Sequence[NewTask], owner: Owner) -> list[Verdict]:
        """Write deliveries; see `rules.accept`."""
        now = self.now()
        rows = [self._new_row(task, owner, now) for task in tasks]
        for row in rows:
            self._note_times(row)
        added = self.rows.insert(rows)
        if len(added) == len(tasks):
            self._worked(now)
            return [Verdict.STORED] * len(tasks)
        verdicts = []
        for task in tasks:
            if task.task_id in added:
                added.discard(task.task_id)  # a second delivery of it in this very call is judged by the rules
                verdicts.append(Verdict.STORED)
            else:
                verdicts.append(self._accept_known(task, owner, now))
        if set(verdicts) - {Verdict.DUPLICATE, Verdict.RAISED}:
            self._worked(now)
        return verdicts

    def _accept_known(self, task: NewTask, owner: Owner, now: float) -> Verdict:
        row = self._load(task.task_id)
        verdict, standing = rules.accept(row.standing(), task.generation, owner)
        if verdict == Verdict.DUPLICATE and standing == row.standing():
            return verdict
        after = _with(row, standing, version=row.version + 1, last_activity=now)
        if verdict == Verdict.REDELIVERED:
            attempts = max(row.attempts, task.attempts, _deliveries(row, task))
            after = after._replace(awaiting_since=None, due_at=_due_at(row.not_before, now), attempts=attempts)
        elif verdict == Verdict.REOPENED:
            after = self._reopened(row, after, task, now)
            self._note_times(after)
            self.rows.replace(row, after.sealed())
            return verdict
        self._note_times(after)
        self.rows.store(row, after.sealed())
        return verdict

    def _reopened(self, row: TaskRow, after: TaskRow, task: NewTask, now: float) -> TaskRow:
        if row.payload != task.payload:
            self.rows.drop_steps(row.task_id)  # they answer another question
        # A task that never left the broker is the same run going on; a replay or a republish brings its own count.
        same_run = row.state == State.REPUBLISHED and not row.messaged
        not_before = self._bounded(task.not_before, now)
        return after._replace(
            payload=task.payload,
            task_name=task.name,
            queue=task.queue,
            headers=_packed(task.headers),
            attempts=max(row.attempts, task.attempts, _deliveries(row, task)) if same_run else task.attempts,
            awaiting_since=None,
            not_before=not_before,
            due_at=_due_at(not_before, now),
            expires_at=None if task.expires_at is None else float(task.expires_at),
            result=None,
            error=None,
            ended_at=None,
            sync_status="pending",
            sync_retry_count=0,
            sync_error=None,
        )

    def _new_row(self, task: NewTask, owner: Owner, now: float) -> TaskRow:
        values: list[Any] = list(_NEW)
        values[At.PAYLOAD] = task.payload
        values[At.TASK_ID] = task.task_id
        values[At.TASK_NAME] = task.name
        values[At.QUEUE] = task.queue
        if task.headers:
            values[At.HEADERS] = _packed(task.headers)
        values[At.OWNER] = _OWNER_TEXTS[owner]
        values[At.GENERATION] = task.generation
        values[At.ATTEMPTS] = task.attempts
        values[At.CREATED_AT] = values[At.LAST_ACTIVITY] = values[At.DUE_AT] = now
        if task.not_before is not None:
            values[At.NOT_BEFORE] = self._bounded(task.not_before, now)
            values[At.DUE_AT] = _due_at(values[At.NOT_BEFORE], now)
        if task.expires_at is not None:
            values[At.EXPIRES_AT] = float(task.expires_at)
        return sealed(values)

    def reject(self, rejected: Sequence[Rejected]) -> None:
        """Keep deliveries that are no valid task."""
        now = self.now()
        self.rows.add_outbox([messages.rejected(message, now) for message in rejected])
        self.context.outgoing = True

    def acked(self, task_ids: Sequence[str]) -> None:
        """Pass rows from broker to journal."""
        for task_id in task_ids:
            row = self._load(task_id)
            standing = rules.take_over(row.standing())
            if standing.owner != row.owner:
                due_at = _due_at(row.not_before, row.created_at)
                self.rows.store(row, _with(row, standing, awaiting_since=None, due_at=due_at))

    def fates(self, task_ids: Collection[str]) -> dict[str, Fate]:
        """What is to become of un-acked deliveries."""
        rows = {task_id: self.rows.load(task_id) for task_id in task_ids}
        return {task_id: rules.fate(row and row.standing()) for task_id, row in rows.items()}

    def channel_lost(self) -> int:
        """Let un-acked rows await their redelivery; how many."""
        now = self.now()
        rows = self.rows.held_unacked(limit=100_000)
        for row in rows:
            after = _with(row, rules.lose_channel(row.standing()), awaiting_since=now, due_at=None)
            self.rows.store(row, after)
        return len(rows)

    def close_unacked(self, after_s: float, limit: int) -> int:
        """Close rows whose redelivery went elsewhere; how many."""
        now = self.now()
        rows = self.rows.awaiting_since(now - after_s, limit)
        for row in rows:
            self._store_ended(row, rules.close_unacked(row.standing()), now, error=row.error)
        return len(rows)

    # -- running --------------------------------------------------------------------------------------------------

    def claim(self, limit: int, budgets: Mapping[str, int]) -> list[Running]:
        """Start due tasks; those that expired or have used up their attempts end here."""
        now = self.now()
        context = self.context
        if context.known_names is None or context.known_names != set(budgets):
            context.known_names = frozenset(budgets)
        if now >= context.next_expiry:
            self.expire(limit=EXPIRE_AT_ONCE)
        started = []
        rows = self.rows.due(now, budgets, limit) if limit > 0 and budgets else []
        for row in rows:
            if row.attempts >= budgets[row.task_name]:
                error = row.error or "no attempt has come to an end"
                self._end(row, State.FAILED, now, error=f"all {row.attempts} attempts used up: {error}")
                continue
            started.append((row, self._started(row, now)))
        self.rows.store_started(started)
        context.work = context.work or len(rows) >= limit
        if now >= context.next_due:
            context.next_due = _or_never(self.rows.next_due(now))
        return [self._running(row, after) for row, after in started]

    def start(self, task_id: str) -> Running:
        """Start this very task, due or not."""
        row = self._load(task_id)
        after = self._started(row, self.now())
        self.rows.store_started([(row, after)])
        return self._running(row, after)

    def _started(self, row: TaskRow, now: float) -> TaskRow:
        values = _changed(row, rules.start)
        values[At.ATTEMPTS] += 1
        values[At.INCARNATION] = self.context.incarnation
        values[At.STARTED_AT] = values[At.LAST_ACTIVITY] = now
        return sealed(values)

    def unfinished(self, limit: int) -> list[Unfinished]:
        """Pending and running tasks, for those who look at them."""
        rows = self.rows.running(limit)
        rows += self.rows.pending(limit - len(rows)) if len(rows) < limit else []
        return [
            Unfinished(
                row.task_id, row.task_name, row.payload, State(row.state), row.attempts, row.created_at, row.error
            )
            for row in rows
        ]

    def _running(self, row: TaskRow, after: TaskRow) -> Running:
        steps = {} if row.started_at is None else {step.name: step.result for step in self.rows.steps(row.task_id)}
        return Running(
            row.task_id,
            row.task_name,
            row.payload,
            row.queue,
            row.generation,
            after.attempts,
            row.expires_at,
            {} if row.headers == "{}" else json.loads(row.headers),
            steps,
            row.incarnation not in {"", self.context.incarnation},
        )

    def expire(self, limit: int) -> int:
        """End pending tasks whose own life time has passed; how many."""
        now = self.now()
        rows = self.rows.expired(now, limit)
        for row in rows:
            self._end(row, State.TIMEOUT, now, error="expired before it could run")
        self.context.next_expiry = _or_never(self.rows.next_expiry())
        return len(rows)

    def step(
        self, task_id: str, name: str, result: bytes, emits: Sequence[Emit], cache: Sequence[CachedAnswer]
    ) -> None:
        """Checkpoint a finished step."""
        now = self.now()
        row = self._load(task_id)
        if row.state != State.RUNNING:
            raise IllegalStateError(f"step of task {task_id!r}: it is {row.state}, not {State.RUNNING}")
        step = StepRow(0, result, task_id, name, now)
        self.rows.put_step(step._replace(checksum=step_checksum(step)))
        self._emit(row, emits, now)
        self.cache(cache)
        self.rows.store(row, row._replace(last_activity=now, emits=row.emits + len(emits)).sealed())

    def heartbeat(self, task_id: str) -> None:
        """Note progress of a running task."""
        now = self.now()
        row = self._load(task_id)
        if row.state != State.RUNNING:
            raise IllegalStateError(f"heartbeat of task {task_id!r}: it is {row.state}, not {State.RUNNING}")
        self.rows.store(row, row._replace(last_activity=now).sealed())

    def complete(self, completions: Sequence[Completion]) -> list[EcoWorkerError | None]:
        """End running tasks with their results; for each why it cannot end so, and then nothing of it is written."""
        now = self.now()
        completed: dict[str, tuple[TaskRow, TaskRow]] = {}
        refused: list[EcoWorkerError | None] = []
        for completion in completions:
            known = completed.get(completion.task_id)
            try:
                row = self._load(completion.task_id) if known is None else known[1]
                after = self._completed(row, completion, now)
            except IllegalStateError as error:
                refused.append(error)
                continue
            completed[completion.task_id] = row, after
            refused.append(None)
            self._emit(row, completion.emits, now)
            self.cache(completion.cache)
            self._note_handover(row)
        self.rows.store_completed(list(completed.values()))
        if completed:
            self.context.last_ended = now
        return refused

    @staticmethod
    def _completed(row: TaskRow, completion: Completion, now: float) -> TaskRow:
        values = _changed(row, rules.end, State.COMPLETED)
        values[At.RESULT] = completion.result
        values[At.ERROR] = values[At.AWAITING_SINCE] = values[At.DUE_AT] = None
        values[At.EMITS] += len(completion.emits)
        values[At.ENDED_AT] = values[At.LAST_ACTIVITY] = now
        return sealed(values)

    def fail(self, task_id: str, error: str) -> None:
        """End a task for good."""
        self._end(self._load(task_id), State.FAILED, self.now(), error=clean_error(error))

    def time_out(self, task_id: str, error: str) -> None:
        """End a task whose time is over."""
        self._end(self._load(task_id), State.TIMEOUT, self.now(), error=clean_error(error))

    def retry(self, task_id: str, error: str, not_before: float) -> None:
        """Schedule another attempt."""
        now = self.now()
        row = self._load(task_id)
        start = self._bounded(not_before, now)
        after = _with(
            row,
            _ruled(row, rules.retry),
            version=row.version + 1,
            error=clean_error(error),
            awaiting_since=None,
            not_before=start,
            due_at=_due_at(start, now),
            last_activity=now,
        )
        self._note_times(after)
        self._note_handover(row)
        self.rows.store(row, after)
        self._worked(now)

    def release(self, task_ids: Sequence[str]) -> None:
        """Put running tasks back, the attempt given back."""
        now = self.now()
        for task_id in task_ids:
            row = self._load(task_id)
            after = _with(
                row,
                _ruled(row, rules.release),
                version=row.version + 1,
                attempts=max(0, row.attempts - 1),
                due_at=None if row.awaiting_since is not None else min(row.due_at or now, now),
                last_activity=now,
            )
            self.rows.store(row, after)
        self._worked(now)

    def republish(self, task_ids: Sequence[str] | None, limit: int) -> int:
        """Give tasks back to the broker; how many."""
        now = self.now()
        rows = self.rows.pending(limit) if task_ids is None else [self._load(task_id) for task_id in task_ids]
        for row in rows:
            standing, generation = rules.republish(row.standing())
            if generation is not None:
                self.rows.add_outbox([messages.republished(row, generation, now)])
                self.context.outgoing = True
            self._store_ended(row, standing, now, error=row.error)
        return len(rows)

    # -- cached answers -------------------------------------------------------------------------------------------

    def cached(self, key: str) -> bytes | None:
        """A cached answer that is not too old."""
        row = self.rows.cached(key)
        if row is None or row.created_at < self.now() - self.context.limits.cache_keep_s:
            return None
        return row.response

    def cache(self, answers: Sequence[CachedAnswer]) -> None:
        """Keep answers."""
        for answer in answers:
            row = CacheRow(0, answer.response, answer.key, answer.model, self.context.last_now)
            self.rows.put_cached(row._replace(checksum=step_checksum(row)))

    # -- a start --------------------------------------------------------------------------------------------------

    def restart(self) -> int:
        """Take up what an earlier process left: running rows are pending again, un-acked ones await redelivery."""
        now = self.now()
        for row in self.rows.running(limit=1_000_000):
            standing = rules.restart(row.standing())
            awaiting = row.awaiting_since or now if standing.awaiting else None
            due_at = None if standing.awaiting else min(row.due_at or now, now)
            after = _with(row, standing, version=row.version + 1, awaiting_since=awaiting, due_at=due_at)
            self.rows.store(row, after)
        self.channel_lost()
        self.mend_schedule(now)
        if self.context.limits.expire_after_s is not None:
            for row in self.rows.created_before(now - self.context.limits.expire_after_s, limit=1_000_000):
                self._end(row, State.TIMEOUT, now, error="older than recovery.expireAfter when the worker started")
        self.context.next_expiry = _or_never(self.rows.next_expiry())
        self.context.next_due = _or_never(self.rows.next_due(now))
        backlog = self.rows.backlog(now, None)
        self.context.recovered = backlog.due + backlog.waiting
        if backlog.due:
            self._worked(now)
        return self.context.recovered

    def mend_schedule(self, now: float) -> None:
        """After a clock was set back: what may run at once does not wait, and nothing waits longer than the bound.

        A pause between attempts keeps its length; a start that somebody asked for by date keeps its date.
        """
        self.context.next_due = now  # what was known of the schedule was told in another time
        latest = now + self.context.limits.scheduled_ahead_s_max
        future = now + CLOCK_STEP_BACK_S
        for row in self.rows.due_too_late(now, latest, future, limit=1_000_000):
            if row.not_before is None:
                mended = row._replace(due_at=now)
            elif row.attempts and row.last_activity > future:
                # The pause was reckoned in a time that has not come yet.
                start = min(now + max(0.0, row.not_before - row.last_activity), latest)
                mended = row._replace(not_before=start, due_at=start, last_activity=now)
            else:
                mended = row._replace(not_before=latest, due_at=latest)
            self.rows.store(row, mended.sealed())

    # -- parts ----------------------------------------------------------------------------------------------------

    def _load(self, task_id: str) -> TaskRow:
        row = self.rows.load(task_id)
        if row is None:
            raise IllegalStateError(f"task {task_id!r}: not in this journal")
        return row

    def _end(self, row: TaskRow, state: State, now: float, *, error: str) -> None:
        standing = _ruled(row, rules.end, state)
        self.rows.add_outbox([messages.dead_letter(row, state, error, now)])
        self.context.outgoing = True
        self._store_ended(row, standing, now, error=error)

    def _store_ended(
        self,
        row: TaskRow,
        standing: Standing,
        now: float,
        *,
        error: str | None,
        result: bytes | None = None,
        emits: int | None = None,
    ) -> None:
        after = _with(
            row,
            standing,
            version=row.version + 1,
            result=result,
            error=error,
            emits=row.emits if emits is None else emits,
            awaiting_since=None,
            due_at=None,
            ended_at=now,
            last_activity=now,
        )
        self._note_handover(row)
        self.rows.store(row, after)
        self.context.last_ended = now

    def _emit(self, row: TaskRow, emits: Sequence[Emit], now: float) -> None:
        if emits:
            self.rows.add_outbox(
                [messages.emitted(row, emit, row.emits + place, now) for place, emit in enumerate(emits)]
            )
            self.context.outgoing = True

    def _note_times(self, row: TaskRow) -> None:
        context = self.context
        if row.not_before is not None and row.not_before < context.next_due:
            context.next_due = row.not_before
        if row.expires_at is not None and row.expires_at < context.next_expiry:
            context.next_expiry = row.expires_at

    def _note_handover(self, row: TaskRow) -> None:
        if row.owner == Owner.BROKER:
            self.context.handover = True

    def _bounded(self, not_before: float | None, now: float) -> float | None:
        if not_before is None or not_before <= now:
            return None
        return min(float(not_before), now + self.context.limits.scheduled_ahead_s_max)

    def _worked(self, now: float) -> None:
        self.context.work = True
        if self.context.work_since is None:
            self.context.work_since = now


def _with(row: TaskRow, standing: Standing, **changes: object) -> TaskRow:
    """The row in another standing and with other values, sealed."""
    changes["state"] = standing.state.value
    changes["owner"] = standing.owner.value
    changes["generation"] = standing.generation
    changes["messaged"] = int(standing.messaged)
    return row.resealed(changes)


def _ruled(row: TaskRow, rule: Callable[..., Standing], *facts: object) -> Standing:
    try:
        return rule(row.standing(), *facts)
    except IllegalStateError as error:
        raise IllegalStateError(f"task {row.task_id!r}: {error}") from None


@lru_cache(maxsize=RULINGS_KEPT_MAX)
def _ruling(
    rule: Callable[..., Standing], standing: tuple[str, str, int, bool, int], *facts: object
) -> tuple[str, str, int, int]:
    """What a rule makes of a standing, as rows say it. Rules are pure, and nearly all tasks stand alike."""
    state, owner, generation, awaiting, messaged = standing
    after = rule(Standing(State(state), Owner(owner), generation, awaiting, bool(messaged)), *facts)
    return after.state.value, after.owner.value, after.generation, int(after.messaged)


def _changed(row: TaskRow, rule: Callable[..., Standing], *facts: object) -> list[Any]:
    """The values of a row that a rule changes, in its next version and not yet sealed."""
    standing = row.state, row.owner, row.generation, row.awaiting_since is not None, row.messaged
    try:
        state, owner, generation, messaged = _ruling(rule, standing, *facts)
    except IllegalStateError as error:
        raise IllegalStateError(f"task {row.task_id!r}: {error}") from None
    values: list[Any] = list(row)
    values[At.STATE] = state
    values[At.OWNER] = owner
    values[At.GENERATION] = generation
    values[At.MESSAGED] = messaged
    values[At.VERSION] += 1
    return values


def _or_never(moment: float | None) -> float:
    return math.inf if moment is None else moment


def _deliveries(row: TaskRow, task: NewTask) -> int:
    """What the broker's count of deliveries says of attempts: of a task never begun here, or one that runs, nothing."""
    return 0 if row.started_at is None or row.state == State.RUNNING else task.deliveries


def _due_at(not_before: float | None, now: float) -> float:
    return now if not_before is None else max(not_before, now)


def _packed(headers: Mapping[str, str]) -> str:
    return json.dumps(dict(headers), ensure_ascii=False, separators=(",", ":")) if headers else "{}"


def names_of(budgets: Collection[str] | Mapping[str, int], limits: Limits) -> Mapping[str, int]:
    """Attempts by task name; a plain set of names gets the journal's default."""
    if isinstance(budgets, Mapping):
        return budgets
    return dict.fromkeys(budgets, limits.attempts_max)
