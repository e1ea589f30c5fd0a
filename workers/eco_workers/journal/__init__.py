"""The journal of one shard: a SQLite file on the shard's own volume, and the code that owns it.

What belongs here: everything that reads or writes that file. What does not: brokers, databases, object stores, the
execution of tasks. Imports go one way, `sqlite > writer, opening > session > upkeep > operations > rules, records >
model`; of the rest of the worker only `errors` and `headers` are known here.

The file
--------

    journal.db            the database, SQLite in write-ahead mode
    journal.db-wal        its log: commits that have not been moved into the database yet
    journal.db-shm        SQLite's index of the log; made anew after a crash
    journal.db.lock       held by `flock` for the life of the owner; names it and the epoch it has
    journal.db.ballast    blocks to end on when the volume is full
    journal.db.quarantined, .suspect     marks for the next open: damaged; a sync has failed
    journal.db.aside-N    a damaged journal that a recovery has moved aside; nothing deletes it

Records
-------

    meta        a line each: the journal's UUID, namespace, worker, shard, draining, sync target
    ledger      one row: the fencing epoch, and counters of ended rows, reports and messages that are owed
    task_wal    a row per task: what was accepted, its state, owner, generation, attempts, times, result or error
    steps       finished steps of a task, which the next attempt skips
    outbox      messages: what tasks emit, dead letters, tasks given back, deliveries that were no task
    gpt_cache   answers of model providers
    retry_queue a view: pending rows with a scheduled start

Each row carries the CRC-32 of its values. SQLite finds a page that is no page; only the checksum finds a flipped bit
inside a value. It is looked at whenever a row is read, and a row that does not fit stops the journal.

What committed means
--------------------

An operation is committed when the `COMMIT` of its group has returned, and with `synchronous=FULL` that is after the
`fsync` of the log. Its future resolves behind that and never before; a broker's ack is sent behind the future. A
group commits as a whole or not at all; inside it each operation stands in a savepoint, or is one statement, and fails
alone. A group that is lost has written nothing, all its futures fail, and nothing is tried again behind the caller's
back.

Crash cases, and what the next open does
----------------------------------------

Before the group's first frame is written: nothing is there, the broker delivers again.

While frames are written, or before the sync has ended: the log's last transaction is torn or whole. SQLite replays up
to the last whole commit. A torn one was never acknowledged.

Behind the sync, before the ack: the rows are there and the delivery comes again; `accept` calls it a duplicate, and
it is acked then.

While a task runs: its row is running, with the incarnation of a process that is gone. It becomes pending again, its
attempt counted, its finished steps kept. If the broker is still its owner (never acked), it waits for its redelivery
and is not run unasked; without one for fifteen minutes it is closed, for the task lives elsewhere.

Behind the result, before its messages are published: the outbox has them, under ids that do not change.

Behind a publish, before it is marked: it is published again under the same id.

While the log is moved into the database: the log still holds all of it, and is replayed again.

While a new journal is made: it is built under another name and renamed when whole, so it is there whole or not at
all.

While a migration runs: each step is one transaction.

A damaged frame in front of a commit that was durable: SQLite would end its replay there and call the rest never
written. The log's headers are read before SQLite replays it, and compared with how far it came: two or more commits
behind the place mean damage, and the journal is quarantined with every file as it is. A flip in the very last
transaction looks like a torn write and cannot be told from one.

A damaged page or value: quarantined when it is met. `recover` builds a new journal beside it from all that can be
read. The check at start is bounded in time; damage of an index that it does not reach is found by `verify`.

A failed `fsync`: the kernel may have dropped the pages and report success the next time. The process ends without an
ack and leaves a mark; the next open checks every page and row before it accepts anything.

A full volume: accepting stops at a reserve; when the volume is full all the same the ballast is freed, and what is
under way ends on it.

Another owner: the epoch in the file is read by every group. Whoever finds a higher one writes nothing more.
"""

from eco_workers.journal.limits import Limits
from eco_workers.journal.model import (
    CachedAnswer,
    Completion,
    Emit,
    Fate,
    Identity,
    NewTask,
    OutboxMessage,
    Owner,
    Rejected,
    Report,
    Running,
    State,
    Statistics,
    TaskJournal,
    Verdict,
)
from eco_workers.journal.sqlite import SqliteJournal

__all__ = [
    "CachedAnswer",
    "Completion",
    "Emit",
    "Fate",
    "Identity",
    "Limits",
    "NewTask",
    "OutboxMessage",
    "Owner",
    "Rejected",
    "Report",
    "Running",
    "SqliteJournal",
    "State",
    "Statistics",
    "TaskJournal",
    "Verdict",
]
