"""The journal's schema and how a file gets from one release of it to the next.

Migrations first expand (a column with a default, a table, an index) and contract a release later, so release N-1 still
works on what N wrote and an image can be rolled back. A file two releases ahead is refused: what it holds may mean
something this code does not know.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import apsw

from eco_workers.errors import JournalRefusedError
from eco_workers.journal.failpoints import reached
from eco_workers.journal.queries import SCHEMA

APPLICATION_ID: Final = 0x45434F57
"""`ECOW` in the file's header: `file` and people can tell a journal from any other database."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One release of the schema: the statements that lead to it from the one before."""

    release: int
    sql: str


MIGRATIONS: Final = (Migration(1, SCHEMA),)
RELEASE: Final = MIGRATIONS[-1].release


def release_of(connection: apsw.Connection) -> int:
    """The release of a file; 0 for an empty one."""
    return int(connection.pragma("user_version"))


def migrate(connection: apsw.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> bool:
    """Bring a file to the newest known release, each step in one transaction; False when there was nothing to do."""
    known = migrations[-1].release
    found = release_of(connection)
    if found > known + 1:
        raise JournalRefusedError(
            f"open journal: its schema is release {found}, this program knows release {known} and can read {known + 1}."
            " Run an image that is at most one release older than the one that wrote it"
        )
    pending = [migration for migration in migrations if migration.release > found]
    for migration in pending:
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute(migration.sql)
            connection.pragma("user_version", migration.release)
            if migration.release == migrations[0].release:
                connection.pragma("application_id", APPLICATION_ID)
            reached("migrate.before-commit")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        reached("migrate.after-commit")
    return bool(pending)
