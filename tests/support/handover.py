"""Every state that one task can get into between a broker and two journals, searched to the end.

The world holds a bounded number of copies of the task at the broker, a dead-letter queue, and two shards, each with a
row, a process that is up or down, deliveries, and (under `Replicated`) what the object store holds of its journal.
Every step that a real system can take is tried in every order: delivery, commit, ack, lost channel, crash, restart,
scheduled retry, time limit, drain, publish, lost confirm, closing of what did not come back, replay of a dead letter,
loss of a volume, restore beside a writer that still lives.

What every state is held to:

* somebody holds the task: the broker, a row that its journal will run, a message not yet marked sent, the dead-letter
  queue; or it is done, or the policy never promised this case (`Phase.EXCUSED`);
* a completed row is never changed; an un-acked row runs only while its delivery is here, and then it may run; no row is
  running in a process that has just started.

Worlds that are done or excused are counted and not followed: nothing is promised beyond. (That a completed row stays as
it is, whatever is delivered, is checked when the row appears.)

The journal's part of each step is asked of `eco_workers.journal.rules`, the copy that runs in the journal; `Rules` lets
a mutation replace one of them. Attempts are not counted: that a budget may be used up at any start covers every count.
Rows are numbered as they appear, so a world is a tuple of small integers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from eco_workers.journal import rules as journal_rules
from eco_workers.journal.model import Fate, Owner, State, Verdict
from eco_workers.journal.rules import Accepted, Republished, Standing

STATES_MAX: Final = 20_000_000


@dataclass(frozen=True, slots=True)
class Bounds:
    """How large a world may grow; within them the search is exhaustive."""

    messages: int = 2
    """Copies of the task at the broker at one time."""
    generation: int = 1
    """Highest generation that anything is given back or replayed with."""
    delivered: int = 2
    """Deliveries that one shard holds at one time."""


class Policy(IntEnum):
    """When the broker's ack is sent. `MIXED` has no policy of its own: each delivery may come under either of two."""

    JOURNALED = 0
    COMPLETED = 1
    REPLICATED = 2
    MIXED = 3


class Phase(IntEnum):
    """How far the promise has come."""

    OPEN = 0
    DONE = 1
    EXCUSED = 2


class Outgoing(NamedTuple):
    """An outbox row that is not marked sent."""

    kind: str
    generation: int
    published: bool


DEAD_LETTER: Final = "dead-letter"
REPUBLISH: Final = "republish"


class Row(NamedTuple):
    """One task in one journal."""

    standing: Standing
    outbox: tuple[Outgoing, ...] = ()


def needs_no_holding(accepted: Accepted) -> bool:
    """Whether a delivery that would be kept un-acked may go at once: its task has ended here."""
    return accepted.verdict == Verdict.DUPLICATE and accepted.standing.state in journal_rules.ENDED


def mark_sent(row: Row, message: Outgoing) -> Row:
    """The confirm of a message ends its outbox row and touches nothing else."""
    return row._replace(outbox=tuple(other for other in row.outbox if other != message))


@dataclass(frozen=True, slots=True)
class Rules:
    """Decisions of the journal (first) and of the worker around it. A mutation replaces one."""

    accept: Callable[[Standing | None, int, Owner], Accepted] = journal_rules.accept
    may_start: Callable[[Standing], bool] = journal_rules.may_start
    start: Callable[[Standing], Standing] = journal_rules.start
    end: Callable[[Standing, State], Standing] = journal_rules.end
    retry: Callable[[Standing], Standing] = journal_rules.retry
    release: Callable[[Standing], Standing] = journal_rules.release
    republish: Callable[[Standing], Republished] = journal_rules.republish
    lose_channel: Callable[[Standing], Standing] = journal_rules.lose_channel
    restart: Callable[[Standing], Standing] = journal_rules.restart
    close_unacked: Callable[[Standing], Standing] = journal_rules.close_unacked
    may_close: Callable[[Standing], bool] = lambda row: (
        row.state == State.PENDING and row.awaiting and row.owner == Owner.BROKER
    )
    sent: Callable[[Row, Outgoing], Row] = mark_sent
    may_ack: Callable[[Standing], bool] = journal_rules.may_ack
    fate: Callable[[Standing], Fate] = journal_rules.fate
    needs_no_holding: Callable[[Accepted], bool] = needs_no_holding
    replayed: Callable[[int], int] = lambda generation: generation + 1
    """Generation of a message that comes back from the dead-letter queue."""
    dead_letters: bool = True
    """Whether a failed or timed-out task leaves a dead letter in its transaction."""
    ack_before_commit: bool = False
    ack_before_replica: bool = False
    restore_seals: bool = True


# A copy of the task at the broker is one number: generation * 16 + where it is. Where is 0 for ready, else the shard
# that has it * 4 + one of these.
DELIVERED, HELD, FREE = 1, 2, 3
"""Not yet accepted; accepted and kept un-acked for now; accepted and free to be acked."""
ZOMBIE: Final = 2
NAMES: Final = "ABZ"
NO_ROW: Final = 0
CLAIMS: Final = "claims"
NO_GHOST: Final = -1


class Shard(NamedTuple):
    """One journal, its process, and what the object store has of it."""

    up: bool
    row: int
    ghost: int
    """Generation of a delivery whose channel went before it was accepted."""
    replica: int


class World(NamedTuple):
    """Everything there is."""

    messages: tuple[int, ...]
    dead: tuple[int, ...]
    phase: int
    shards: tuple[Shard, ...]


class Change(NamedTuple):
    """What one row can do by itself."""

    label: str
    row: int
    published: Outgoing | None
    completes: bool
    broken: str


Step = tuple[str, World, str]


@dataclass(frozen=True, slots=True)
class Violation:
    """A state that breaks the promise, and how the world got there."""

    what: str
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What one search saw."""

    policy: Policy
    states: int
    steps: int
    violation: Violation | None
    complete: bool
    """Whether the search came to its end, rather than to a violation or its bound."""


def search(
    policy: Policy,
    rules: Rules | None = None,
    *,
    bounds: Bounds | None = None,
    states_max: int = STATES_MAX,
    trace: bool = False,
) -> Found:
    """Visit every reachable state breadth first; stop at the first that breaks the promise.

    With `trace` the way to each state is kept (more memory), so a violation comes with a shortest path to it.
    """
    stepper = _Stepper(policy, rules or Rules(), bounds or Bounds())
    start = World((0,), (), Phase.OPEN, (Shard(True, NO_ROW, NO_GHOST, NO_ROW),) * 2)
    seen: dict[World, tuple[World, str] | None] = {start: None}
    frontier, steps = [start], 0
    while frontier:
        following: list[World] = []
        for world in frontier:
            for label, reached, broken in stepper.steps(world):
                steps += 1
                after = _canonical(reached)
                if not broken and after in seen:
                    continue
                problem = broken or stepper.holder_missing(after)
                if problem:
                    path = (*_path(seen, world), label) if trace else (label,)
                    return Found(policy, len(seen), steps, Violation(problem, path), complete=False)
                seen[after] = (world, label) if trace else None
                if after.phase == Phase.OPEN:
                    following.append(after)
            if len(seen) > states_max:
                return Found(policy, len(seen), steps, None, complete=False)
        frontier = following
    return Found(policy, len(seen), steps, None, complete=True)


def _canonical(world: World) -> World:
    """The one of a world and its mirror image that is searched: the two shards are alike."""
    shards = world.shards
    if len(shards) > ZOMBIE or shards[0] <= shards[1]:
        return world
    swapped = tuple(sorted(m + 4 if 0 < m % 16 < 4 else m - 4 if 4 < m % 16 < 8 else m for m in world.messages))
    return World(swapped, world.dead, world.phase, (shards[1], shards[0]))


def _path(seen: dict[World, tuple[World, str] | None], world: World) -> tuple[str, ...]:
    path = []
    at = seen[world]
    while at is not None:
        path.append(at[1])
        at = seen[at[0]]
    return tuple(reversed(path))


class _Book:
    """Numbers rows as they appear and remembers what the rules say of each."""

    def __init__(self, rules: Rules, bounds: Bounds) -> None:
        self.rules, self.bounds = rules, bounds
        self.rows: list[Row | None] = [None]
        self.numbers: dict[Row | None, int] = {None: NO_ROW}
        self.holds = [False]
        self._changes: dict[int, tuple[Change, ...]] = {}
        self._accepted: dict[tuple[int, int, Owner], tuple[int, bool, str]] = {}
        self._plain: dict[tuple[str, int], tuple[int, str]] = {}

    def number(self, row: Row | None) -> int:
        known = self.numbers.get(row)
        if known is None:
            known = self.numbers[row] = len(self.rows)
            self.rows.append(row)
            self.holds.append(row is not None and _holds(row))
        return known

    def accepted(self, number: int, generation: int, owner: Owner) -> tuple[int, bool, str]:
        """Row after a delivery, whether the delivery may be acked at once, and what that breaks."""
        key = (number, generation, owner)
        known = self._accepted.get(key)
        if known is None:
            row = self.rows[number]
            judged = self.rules.accept(row.standing if row else None, generation, owner)
            after = Row(judged.standing, row.outbox if row else ())
            free = owner == Owner.JOURNAL or self.rules.needs_no_holding(judged)
            stuck = after.standing.awaiting and after.standing.state in journal_rules.UNFINISHED
            broken = "a delivery has come and its row still awaits one" if stuck else _broken(row, after)
            known = self._accepted[key] = (self.number(after), free, broken)
        return known

    def runs_unasked(self, number: int) -> bool:
        """Whether a row may only run while its delivery is here."""
        row = self.rows[number]
        return row is not None and row.standing.owner == Owner.BROKER

    def restarted(self, number: int) -> tuple[int, str]:
        """Row after the process came up again."""
        after, broken = self._remember("restart", number, self.rules.restart)
        row = self.rows[after]
        if row is not None and row.standing.state == State.RUNNING:
            broken = "a row runs in a process that has just started"
        return after, broken

    def channel_lost(self, number: int) -> tuple[int, str]:
        """Row after its deliveries went back to the broker."""
        return self._remember("lose channel", number, self.rules.lose_channel)

    def may_ack(self, number: int) -> bool:
        row = self.rows[number]
        return row is not None and self.rules.may_ack(row.standing)

    def is_returned(self, number: int) -> bool:
        """Whether a delivery that is kept un-acked goes back, its task given back without a message."""
        row = self.rows[number]
        return row is not None and self.rules.fate(row.standing) is Fate.RETURN

    def _remember(self, name: str, number: int, rule: Callable[[Standing], Standing]) -> tuple[int, str]:
        known = self._plain.get((name, number))
        if known is None:
            row = self.rows[number]
            after = row and row._replace(standing=rule(row.standing))
            known = self._plain[name, number] = (self.number(after), _broken(row, after))
        return known

    def changes(self, number: int) -> tuple[Change, ...]:
        """Everything that a row can do while its process is up."""
        known = self._changes.get(number)
        if known is None:
            row = self.rows[number]
            known = self._changes[number] = tuple(self._work_out(row)) if row else ()
        return known

    def _unsettled(self, row: Row) -> str:
        """What can still change a completed row, whatever is delivered to it and whatever it lives through."""
        rules, now = self.rules, row.standing
        after = {rules.restart(now), rules.lose_channel(now)}
        for generation in range(self.bounds.generation + 2):
            after |= {rules.accept(now, generation, owner).standing for owner in Owner}
        return "" if after == {now} else "a completed row changed"

    def _work_out(self, row: Row) -> Iterator[Change]:
        rules, now = self.rules, row.standing

        def change(label: str, after: Row) -> Change:
            return self._change(row, label, after)

        def ended(label: str, state: State) -> Change:
            after = row._replace(standing=rules.end(now, state))
            if state != State.COMPLETED and rules.dead_letters:
                after = _posted(after, Outgoing(DEAD_LETTER, after.standing.generation, published=False))
            return change(label, after)

        if rules.may_start(now):
            yield change(CLAIMS, row._replace(standing=rules.start(now._replace(awaiting=False))))
        if now.state == State.PENDING:
            yield ended("expires", State.TIMEOUT)
            yield ended("has used up its attempts", State.FAILED)
        if rules.may_close(now):
            yield change("closes un-acked", row._replace(standing=rules.close_unacked(now)))
        if now.state == State.RUNNING:
            yield ended("completes", State.COMPLETED)
            yield ended("fails", State.FAILED)
            yield ended("reaches its time limit", State.TIMEOUT)
            yield change("schedules a retry", row._replace(standing=rules.retry(now)))
            yield change("releases", row._replace(standing=rules.release(now)))
        if now.state in journal_rules.UNFINISHED and now.generation < self.bounds.generation:
            standing, generation = rules.republish(now)
            after = row._replace(standing=standing)
            if generation is not None:
                after = _posted(after, Outgoing(REPUBLISH, generation, published=False))
            yield change("drains", after)
        yield from self._relayed(row)

    def _change(self, row: Row, label: str, after: Row, published: Outgoing | None = None) -> Change:
        completes = after.standing.state == State.COMPLETED
        broken = _broken(row, after) or (self._unsettled(after) if completes else "")
        return Change(label, self.number(after), published, completes, broken)

    def _relayed(self, row: Row) -> Iterator[Change]:
        rules = self.rules
        for message in row.outbox:
            # Nothing happens between a dead letter and its confirm that depends on it: one bit less.
            known = message._replace(published=message.kind == REPUBLISH)
            outbox = tuple(sorted({*row.outbox} - {message} | {known}))
            yield self._change(row, f"publishes the {message.kind}", row._replace(outbox=outbox), message)
            if message.kind == DEAD_LETTER:
                yield self._change(row, "publishes the dead letter, confirmed", rules.sent(row, message), message)
            elif message.published:
                yield self._change(row, f"sees the {message.kind} confirmed", rules.sent(row, message))


class _Stepper:
    """All steps that lead out of a world."""

    def __init__(self, policy: Policy, rules: Rules, bounds: Bounds) -> None:
        self.rules, self.bounds, self.book = rules, bounds, _Book(rules, bounds)
        self.replicated = policy is Policy.REPLICATED
        self.volumes_go = policy in (Policy.COMPLETED, Policy.REPLICATED)
        both = (Owner.JOURNAL, Owner.BROKER)
        self.owners = {Policy.COMPLETED: both[1:], Policy.MIXED: both}.get(policy, both[:1])

    def holder_missing(self, world: World) -> str:
        """Why nobody holds the task in this state; empty when somebody does."""
        if world.phase != Phase.OPEN or world.messages or world.dead:
            return ""
        holds = self.book.holds
        return "" if any(holds[shard.row] for shard in world.shards) else "nobody holds the task"

    def steps(self, world: World) -> Iterator[Step]:
        """Each possible next world, with a label and what the step itself breaks."""
        yield from self._broker_steps(world)
        for index, shard in enumerate(world.shards):
            if not shard.up:
                yield from self._down_steps(world, index, shard)
                continue
            yield from self._fault_steps(world, index, shard)
            yield from self._row_steps(world, index, shard)
            yield from self._delivery_steps(world, index, shard)

    def _broker_steps(self, world: World) -> Iterator[Step]:
        messages = world.messages
        for message in {*messages}:
            if message % 16:
                continue
            for index, shard in enumerate(world.shards):
                if (
                    shard.up
                    and sum(1 for other in messages if other % 16 // 4 == index and other % 4) < self.bounds.delivered
                ):
                    moved = _moved(messages, message, message + index * 4 + DELIVERED)
                    yield f"the broker delivers to {NAMES[index]}", world._replace(messages=moved), ""
        for generation in world.dead:
            again = self.rules.replayed(generation)
            if again > self.bounds.generation or len(messages) == self.bounds.messages:
                continue
            queued = tuple(sorted((*messages, again * 16)))
            # A replay publishes, then acks: a cut between the two leaves both.
            yield "a dead letter is replayed but stays", world._replace(messages=queued), ""
            rest = tuple(other for other in world.dead if other != generation)
            yield "a dead letter is replayed", world._replace(messages=queued, dead=rest), ""

    def _down_steps(self, world: World, index: int, shard: Shard) -> Iterator[Step]:
        name = NAMES[index]
        row, broken = self.book.restarted(shard.row)
        yield f"{name} restarts", _with(world, index, shard._replace(up=True, row=row)), broken
        if not self.volumes_go or shard.row == NO_ROW:
            return
        if self.replicated:
            yield f"{name} loses its volume and is restored", _with(world, index, shard._replace(row=shard.replica)), ""
            return
        after = _with(world, index, shard._replace(row=NO_ROW))
        lost = self.book.rows[shard.row]
        # Nothing is promised for what has ended or waits for a scheduled retry: the journal alone had it.
        if lost is not None and lost.standing.owner == Owner.JOURNAL and world.phase == Phase.OPEN:
            after = after._replace(phase=Phase.EXCUSED)
        yield f"{name} loses its volume", after, ""

    def _fault_steps(self, world: World, index: int, shard: Shard) -> Iterator[Step]:
        name = NAMES[index]
        back = tuple(sorted(m - m % 16 if m % 16 // 4 == index and m % 4 else m for m in world.messages))
        if index == ZOMBIE:
            yield "Z exits", world._replace(messages=back, shards=world.shards[:ZOMBIE]), ""
        else:
            down = shard._replace(up=False, ghost=NO_GHOST)
            yield f"{name} crashes", _with(world._replace(messages=back), index, down), ""
            if self.replicated and len(world.shards) == ZOMBIE:
                yield self._restored_elsewhere(world, index, shard)
        if back == world.messages:
            return
        row, broken = self.book.channel_lost(shard.row)
        buffered = {m // 16 for m in world.messages if m % 16 == index * 4 + DELIVERED}
        if any(other.ghost != NO_GHOST for other in world.shards):
            buffered = set()  # one late delivery at a time
        for ghost in {NO_GHOST, *buffered}:
            after = _with(world._replace(messages=back), index, shard._replace(row=row, ghost=ghost))
            yield f"{name} loses its channel", after, broken

    def _restored_elsewhere(self, world: World, index: int, shard: Shard) -> Step:
        """The shard begins anew from the store while its old process lives on, with its file and its deliveries."""
        taken = tuple(
            sorted(m - index * 4 + ZOMBIE * 4 if m % 16 // 4 == index and m % 4 else m for m in world.messages)
        )
        old = Shard(True, shard.row, shard.ghost, NO_ROW)
        new = Shard(False, shard.replica, NO_GHOST, shard.replica)
        shards = (*_swap(world.shards, index, new), old)
        return f"{NAMES[index]} is restored elsewhere", world._replace(messages=taken, shards=shards), ""

    def _row_steps(self, world: World, index: int, shard: Shard) -> Iterator[Step]:
        name = NAMES[index]
        for change in self.book.changes(shard.row):
            after = _with(world, index, Shard(shard.up, change.row, shard.ghost, shard.replica))
            if change.completes and world.phase == Phase.OPEN:
                after = after._replace(phase=Phase.DONE)
            if change.published is not None:
                arrived = _published(after, change.published, self.bounds.messages)
                if arrived is None:
                    continue
                after = arrived
            broken = change.broken
            if change.label == CLAIMS and self.book.runs_unasked(shard.row) and not _holds_delivery(world, index):
                broken = "an un-acked row runs without its delivery"
            yield f"{name} {change.label}", after, broken
        if self.replicated and (index != ZOMBIE or not self.rules.restore_seals):
            # The store confirms every segment up to now. A sealed writer meets a conflict instead and can only exit.
            held = index * 4 + HELD
            free = tuple(sorted(m - HELD + FREE if m % 16 == held else m for m in world.messages))
            replica = NO_ROW if index == ZOMBIE else shard.row
            after = _with(world._replace(messages=free), index, shard._replace(replica=replica))
            yield f"{name} replicates", after, ""

    def _delivery_steps(self, world: World, index: int, shard: Shard) -> Iterator[Step]:
        name, messages = NAMES[index], world.messages
        for message in {*messages}:
            if message % 16 // 4 != index or not message % 4:
                continue
            place = message % 4
            if place == DELIVERED:
                yield from self._accept_steps(world, index, shard, message)
            elif place == FREE or (place == HELD and self._ackable(shard)):
                yield f"{name} acks", world._replace(messages=_without(messages, message)), ""
            elif place == HELD and self.book.is_returned(shard.row):
                yield (
                    f"{name} returns a delivery",
                    world._replace(messages=_moved(messages, message, message - message % 16)),
                    "",
                )
        if shard.ghost == NO_GHOST:
            return
        for owner in self.owners:
            row, _, broken = self.book.accepted(shard.row, shard.ghost, owner)
            # The channel that brought it is gone: the worker says so again after the commit.
            row, broken_too = self.book.channel_lost(row)
            after = _with(world, index, shard._replace(row=row, ghost=NO_GHOST))
            yield f"{name} accepts what its lost channel brought", after, broken or broken_too

    def _accept_steps(self, world: World, index: int, shard: Shard, message: int) -> Iterator[Step]:
        name, generation = NAMES[index], message // 16
        for owner in self.owners:
            row, free, broken = self.book.accepted(shard.row, generation, owner)
            place = FREE if free and not self.replicated else HELD
            moved = _moved(world.messages, message, message - DELIVERED + place)
            after = _with(world._replace(messages=moved), index, shard._replace(row=row))
            yield f"{name} accepts generation {generation}", after, broken
        if self.rules.ack_before_commit:
            rest = world._replace(messages=_without(world.messages, message))
            yield f"{name} acks before the commit", _with(rest, index, shard._replace(ghost=generation)), ""

    def _ackable(self, shard: Shard) -> bool:
        if self.replicated:
            return self.rules.ack_before_replica
        return self.book.may_ack(shard.row)


def _holds(row: Row) -> bool:
    """Whether a row brings its task on by itself."""
    if row.outbox:
        return True
    standing = row.standing
    return standing.state in journal_rules.UNFINISHED and standing.owner == Owner.JOURNAL and not standing.awaiting


def _holds_delivery(world: World, index: int) -> bool:
    """Whether a shard has a delivery that it accepted and did not ack."""
    return any(message % 16 // 4 == index and message % 4 >= HELD for message in world.messages)


def _posted(row: Row, message: Outgoing) -> Row:
    return row._replace(outbox=tuple(sorted({*row.outbox, message})))


def _broken(before: Row | None, after: Row | None) -> str:
    if before is None or after is None or before.standing.state != State.COMPLETED:
        return ""
    return "" if after.standing == before.standing else "a completed row changed"


def _without(messages: tuple[int, ...], message: int) -> tuple[int, ...]:
    place = messages.index(message)
    return messages[:place] + messages[place + 1 :]


def _moved(messages: tuple[int, ...], message: int, to: int) -> tuple[int, ...]:
    return tuple(sorted((*_without(messages, message), to)))


def _published(world: World, message: Outgoing, messages_max: int) -> World | None:
    """The world with one more message; None where the bound of the search is reached."""
    if message.kind == DEAD_LETTER:
        return world._replace(dead=tuple(sorted({*world.dead, message.generation})))
    if len(world.messages) == messages_max:
        return None
    return world._replace(messages=tuple(sorted((*world.messages, message.generation * 16))))


def _swap(shards: tuple[Shard, ...], index: int, shard: Shard) -> tuple[Shard, ...]:
    if len(shards) > ZOMBIE:
        return (*shards[:index], shard, *shards[index + 1 :])
    return (shards[0], shard) if index else (shard, shards[1])


def _with(world: World, index: int, shard: Shard) -> World:
    return World(world.messages, world.dead, world.phase, _swap(world.shards, index, shard))
