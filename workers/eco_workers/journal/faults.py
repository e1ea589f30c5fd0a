"""What an error of SQLite means for the journal."""

import errno

import apsw

from eco_workers.errors import (
    CommitFailedError,
    EcoWorkerError,
    IllegalStateError,
    JournalCorruptError,
    JournalError,
    JournalFatalError,
    JournalFullError,
)


def translate(error: BaseException, doing: str) -> EcoWorkerError:
    """The journal's error for one of SQLite's; one of our own stays what it is."""
    if isinstance(error, EcoWorkerError):
        return error
    meaning: type[JournalError]
    match error:
        case apsw.FullError() | OSError(errno=errno.ENOSPC | errno.EDQUOT):
            meaning = JournalFullError
        case apsw.CorruptError() | apsw.NotADBError() | UnicodeDecodeError():
            # Only text that was encoded ever went in: what cannot be decoded is not what was written.
            meaning = JournalCorruptError
        case apsw.IOError() | apsw.CantOpenError() | apsw.ReadOnlyError() | apsw.PermissionsError() | OSError():
            # Whether the last commit reached the disk is not known any more. Trying again on the same descriptor would
            # report success for pages that the kernel has already dropped.
            meaning = JournalFatalError
        case apsw.ConstraintError() if "illegal state" in str(error):
            meaning = IllegalStateError
        case _:
            meaning = CommitFailedError
    code = getattr(error, "extendedresult", 0)
    return meaning(f"{doing}: {type(error).__name__} {code}: {error}")
