"""What is done beside the running journal, on a second connection that only reads: backup and verification.

Two connections of one process to one file are safe with the SQLite that this package insists on; both close before the
journal does.
"""

from pathlib import Path

import apsw

from eco_workers.errors import JournalError
from eco_workers.journal.checks import check_everything
from eco_workers.journal.faults import translate
from eco_workers.journal.opening import Plan, connect


def backup(plan: Plan, target: Path) -> None:
    """Copy the journal as it stands at one moment into a new file, whole and durable or not at all."""
    if target.exists():
        raise JournalError(f"backup to {target}: it exists already; a backup never writes over anything")
    beside = target.with_name(target.name + ".new")
    beside.unlink(missing_ok=True)
    source = _reader(plan)
    try:
        copy = apsw.Connection(str(beside))
        try:
            copy.pragma("synchronous", "FULL")
            with copy.backup("main", source, "main") as running:
                running.step(-1)
            # The copy carries the mark of a file with a write-ahead log, and must not need one.
            copy.pragma("journal_mode", "delete")
        finally:
            copy.close()
    except apsw.Error as error:
        beside.unlink(missing_ok=True)
        raise translate(error, f"backup to {target}") from error
    finally:
        source.close()
    plan.files.rename(beside, target)


def verify(plan: Plan) -> list[str]:
    """Everything that is wrong with the journal's file."""
    try:
        reader = _reader(plan)
    except apsw.Error as error:
        return [str(translate(error, f"verify {plan.path}"))]
    try:
        return check_everything(reader, plan.queries)
    except apsw.Error as error:
        return [str(translate(error, f"verify {plan.path}"))]
    finally:
        reader.close()


def _reader(plan: Plan) -> apsw.Connection:
    reader = connect(plan)
    reader.pragma("query_only", 1)
    # The journal's own connection decides when the log is moved.
    reader.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    return reader
