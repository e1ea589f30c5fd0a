"""Errors of the worker. Each says operation, object, cause and hint; whether to try again is in its type.

The docstring of an error is its meaning; the message names the thing at hand.
"""


class EcoWorkerError(Exception):
    """Root of all errors that this package raises on purpose."""


class SettingsError(EcoWorkerError):
    """A setting is missing or wrong: the process does not start. Names the variable, the problem and an example."""


class InvalidTaskError(EcoWorkerError):
    """A message or a call does not describe a valid task. Names the field, the value's problem and the bound."""


class JournalError(EcoWorkerError):
    """Root of the journal's errors."""


class IllegalStateError(JournalError):
    """A change between two states that does not exist. Names both."""


class JournalBusyError(JournalError):
    """The journal's queue is full: try again after a pause."""


class JournalFullError(JournalError):
    """No room for new work: accepting stops, running work may still finish. Leaves by itself when room returns."""


class CommitFailedError(JournalError):
    """The group's transaction was rolled back: nothing of it is in the journal. The caller may try again."""


class JournalFatalError(JournalError):
    """The journal may not be durable any more (failed fsync, I/O error at commit): the process must exit."""


class JournalLockedError(JournalError):
    """Another process owns the journal; names the holder."""


class JournalRefusedError(JournalError):
    """The journal must not be opened here.

    Foreign identity, stale epoch, network file system, affected SQLite library, or a newer schema.
    """


class JournalLostError(JournalRefusedError):
    """Another journal than the known one, or none where one was known: nothing is accepted until somebody decides."""


class JournalCorruptError(JournalError):
    """The journal is damaged: quarantined, left as it is, until a recovery."""


class TaskFailedError(EcoWorkerError):
    """A task says that it cannot succeed however often it runs: no further attempt, dead letter at once."""
