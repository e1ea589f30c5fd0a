"""The journal of one shard: a SQLite file on the shard's own volume, and the code that owns it.

What belongs here: everything that reads or writes that file. What does not: brokers, databases, object stores, the
execution of tasks. Imports go `sqlite > opening, writer > session > operations > rules, records > model`; nothing here
imports another part of the worker but `errors` and `headers`.
"""

from eco_workers.journal.limits import Limits
from eco_workers.journal.model import (
    CachedAnswer,
    Emit,
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
    "Emit",
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
