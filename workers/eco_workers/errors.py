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


class BrokerUnavailableError(EcoWorkerError):
    """The broker cannot be reached, or took away the connection. Nothing is known to be published: try again later."""


class TopologyError(EcoWorkerError):
    """A queue or an exchange exists with other arguments than ours. Names it; the broker's operator must decide."""


class DeadLetterError(EcoWorkerError):
    """A dead letter cannot be moved: where it should go does not exist or takes nothing. It stays where it is."""


class ObjectStoreError(EcoWorkerError):
    """The object store did not answer as it should. Worth another attempt later."""


class ObjectExistsError(EcoWorkerError):
    """A conditional put met an object that is there already. Nothing was changed."""


class ObjectMismatchError(EcoWorkerError):
    """An object of that key exists already and holds other bytes. Names the key and both checksums."""


class PictureError(EcoWorkerError):
    """The bytes are no picture that may be worked on. Says what is wrong and the bound; another attempt is no use."""


class DatabaseUnavailableError(EcoWorkerError):
    """A database that a task wants does not serve, or its connections are all in use: worth another attempt later."""


class SyncUnavailableError(EcoWorkerError):
    """PostgreSQL cannot be reached or refuses to serve for now: no row is to blame, no attempt is counted."""
