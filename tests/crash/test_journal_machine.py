"""A hypothesis state machine: the journal against a plain model of it, with crashes, lost channels and reopenings.

The model's rows are made by the journal's own rules, the very functions that the search of the hand-over proves; what
the machine adds is the file, the SQL, the outbox and the restarts between them. Time stands still unless a rule moves
it.
"""

import asyncio
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from eco_workers.errors import IllegalStateError
from eco_workers.journal import SqliteJournal, rules
from eco_workers.journal.model import Emit, NewTask, Owner, State
from eco_workers.journal.rules import Standing
from tests.support.powercut import read_image, write_image
from tests.support.scratch import MEMORY
from tests.support.workload import IDENTITY, SMALL

TASKS: Final = 3
BUDGET: Final = 4
NAME: Final = "resize"
RETRY_S: Final = 50.0
IDS: Final = st.integers(0, TASKS - 1).map("task-{}".format)


@dataclass(slots=True)
class Plain:
    """One task as the model has it."""

    standing: Standing
    attempts: int = 0
    not_before: float = 0.0
    steps: set[str] = field(default_factory=set)


class JournalMachine(RuleBasedStateMachine):
    """Rules are calls of the journal; each compares what it gave with what the model says."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.directory = Path(tempfile.mkdtemp(prefix="eco-machine-", dir=MEMORY if MEMORY.exists() else None))
        self.now = 1_000.0
        self.tasks: dict[str, Plain] = {}
        self.messages: list[tuple[str, str]] = []
        self.epoch = 0
        self.crashes = 0
        self.open(self.directory / "life-0")

    def open(self, place: Path) -> None:
        place.mkdir(exist_ok=True)
        self.place = place
        self.journal = self.run(
            SqliteJournal.open(place / "wal.db", identity=IDENTITY, limits=SMALL, clock=lambda: self.now)
        )
        assert self.journal.epoch > self.epoch
        self.epoch = self.journal.epoch
        for task in self.tasks.values():
            task.standing = rules.restart(task.standing)

    def run(self, operation: Any) -> Any:
        return self.loop.run_until_complete(operation)

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.run(self.journal.close())
            self.loop.close()
            shutil.rmtree(self.directory)

    # -- what happens -------------------------------------------------------------------------------------------------

    @rule(task_id=IDS, generation=st.integers(0, 3), owner=st.sampled_from(Owner))
    def accept(self, task_id: str, generation: int, owner: Owner) -> None:
        known = self.tasks.get(task_id)
        wanted = rules.accept(known.standing if known else None, generation, owner)
        task = NewTask(task_id, NAME, b'{"n":1}', "q.batch", generation=generation)
        (verdict,) = self.run(self.journal.accept([task], owner=owner))
        assert verdict == wanted.verdict
        if known is None:
            self.tasks[task_id] = Plain(wanted.standing)
            return
        if verdict == "reopened":
            same_run = known.standing.state == State.REPUBLISHED and not known.standing.messaged
            known.attempts = known.attempts if same_run else 0
            known.not_before = 0.0
        known.standing = wanted.standing

    @rule(limit=st.integers(1, 3))
    def claim(self, limit: int) -> None:
        due = {
            task_id
            for task_id, task in self.tasks.items()
            if rules.may_start(task.standing) and task.not_before <= self.now
        }
        spent = {task_id for task_id in due if self.tasks[task_id].attempts >= BUDGET}
        claimed = self.run(self.journal.claim(limit, names={NAME: BUDGET}))
        assert {running.task_id for running in claimed} <= due - spent
        assert len(claimed) <= limit
        if not spent:
            assert len(claimed) == min(limit, len(due))
        for running in claimed:
            task = self.tasks[running.task_id]
            task.standing = rules.start(task.standing)
            task.attempts += 1
            assert running.attempt == task.attempts
            assert set(running.steps) == task.steps
            assert running.generation == task.standing.generation
        # Which of the spent ones were met first is the journal's business; those that were met have ended.
        for task_id in spent:
            if self.state_of(task_id) == State.FAILED:
                self.tasks[task_id].standing = rules.end(self.tasks[task_id].standing, State.FAILED)
                self.messages.append((task_id, "dead-letter"))

    def state_of(self, task_id: str) -> State:
        row = self.run(self.journal._writer.run(lambda ops: ops.rows.load(task_id)))
        return State(row.state)

    def attempt(self, task_id: str, operation: Any, change: Any) -> bool:
        """Make a call that the rules may refuse; whether both agreed to make the change."""
        task = self.tasks.get(task_id)
        try:
            after = change(task.standing) if task else None
        except IllegalStateError:
            after = None
        try:
            self.run(operation)
        except IllegalStateError:
            assert after is None, f"refused: {task}"
            return False
        assert task is not None
        assert after is not None, f"allowed: {task}"
        task.standing = after
        return True

    @rule(task_id=IDS, name=st.sampled_from(["one", "two"]), emits=st.integers(0, 2))
    def step(self, task_id: str, name: str, emits: int) -> None:
        task = self.tasks.get(task_id)
        messages = [Emit("q.next", b"{}")] * emits
        try:
            self.run(self.journal.step(task_id, name, b'"done"', emits=messages))
        except IllegalStateError:
            assert task is None or task.standing.state != State.RUNNING
            return
        assert task is not None
        assert task.standing.state == State.RUNNING
        task.steps.add(name)
        self.messages += [(task_id, "emit")] * emits

    @rule(task_id=IDS, emits=st.integers(0, 2))
    def complete(self, task_id: str, emits: int) -> None:
        operation = self.journal.complete(task_id, b"{}", emits=[Emit("q.next", b"{}")] * emits)
        if self.attempt(task_id, operation, lambda row: rules.end(row, State.COMPLETED)):
            self.messages += [(task_id, "emit")] * emits

    @rule(task_id=IDS)
    def fail(self, task_id: str) -> None:
        if self.attempt(task_id, self.journal.fail(task_id, "broken"), lambda row: rules.end(row, State.FAILED)):
            self.messages.append((task_id, "dead-letter"))

    @rule(task_id=IDS)
    def time_out(self, task_id: str) -> None:
        operation = self.journal.time_out(task_id, "late")
        if self.attempt(task_id, operation, lambda row: rules.end(row, State.TIMEOUT)):
            self.messages.append((task_id, "dead-letter"))

    @rule(task_id=IDS, wait_s=st.sampled_from([0.0, RETRY_S]))
    def retry(self, task_id: str, wait_s: float) -> None:
        if self.attempt(task_id, self.journal.retry(task_id, "busy", not_before=self.now + wait_s), rules.retry):
            self.tasks[task_id].not_before = self.now + wait_s

    @rule(task_id=IDS)
    def release(self, task_id: str) -> None:
        if self.attempt(task_id, self.journal.release([task_id]), rules.release):
            self.tasks[task_id].attempts -= 1

    @rule(task_id=IDS)
    def republish(self, task_id: str) -> None:
        before = self.tasks.get(task_id)
        owned = before is not None and before.standing.owner == Owner.JOURNAL
        if (
            self.attempt(task_id, self.journal.republish([task_id]), lambda row: rules.republish(row).standing)
            and owned
        ):
            self.messages.append((task_id, "republish"))

    @rule()
    def lose_channel(self) -> None:
        self.run(self.journal.channel_lost())
        for task in self.tasks.values():
            task.standing = rules.lose_channel(task.standing)

    @rule()
    def close_unacked(self) -> None:
        self.run(self.journal.close_unacked(after_s=0.0))
        for task in self.tasks.values():
            row = task.standing
            if row.state == State.PENDING and row.awaiting and row.owner == Owner.BROKER:
                task.standing = rules.close_unacked(row)

    @rule()
    def send(self) -> None:
        messages = self.run(self.journal.outbox(1_000))
        assert sorted((message.task_id, message.kind) for message in messages) == sorted(self.messages)
        self.run(self.journal.sent([message.row_id for message in messages]))
        self.messages.clear()

    @rule()
    def checkpoint(self) -> None:
        self.run(self.journal.checkpoint())

    @rule(seconds=st.sampled_from([1.0, RETRY_S, 2 * RETRY_S]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def reopen(self) -> None:
        self.run(self.journal.close())
        self.open(self.place)

    @precondition(lambda self: self.crashes < 5)
    @rule()
    def crash(self) -> None:
        """The process is gone: what the next one finds is the file as it stands, the log not moved."""
        # Between two groups: file by file, beside a checkpoint, it would be no state that ever was.
        image = self.run(self.journal._writer.between(lambda: read_image(self.place)))
        self.run(self.journal.close())
        self.crashes += 1
        place = self.directory / f"life-{self.crashes}"
        write_image(image, place)
        self.open(place)

    # -- what is always so --------------------------------------------------------------------------------------------

    @invariant()
    def rows_are_as_the_model_says(self) -> None:
        if not hasattr(self, "journal"):
            return
        for task_id, task in self.tasks.items():
            row = self.run(self.journal._writer.run(lambda ops, task_id=task_id: ops.rows.load(task_id)))
            found = row.standing()
            if found.state != State.REPUBLISHED:
                found = found._replace(messaged=False)
            wanted = task.standing
            if wanted.state != State.REPUBLISHED:
                wanted = wanted._replace(messaged=False)
            assert (found, row.attempts) == (wanted, task.attempts), task_id

    @invariant()
    def counts_are_exact(self) -> None:
        if not hasattr(self, "journal"):
            return
        counts = self.run(self.journal.statistics()).counts
        states = [task.standing.state for task in self.tasks.values()]
        assert counts.completed == states.count(State.COMPLETED)
        assert counts.failed == states.count(State.FAILED)
        assert counts.timeout == states.count(State.TIMEOUT)
        assert counts.republished == states.count(State.REPUBLISHED)
        assert counts.running == states.count(State.RUNNING)
        assert counts.due + counts.waiting == states.count(State.PENDING)
        assert counts.outbox_unsent == len(self.messages)


TestJournalMachine = JournalMachine.TestCase
TestJournalMachine.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
