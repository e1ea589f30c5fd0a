"""The journal's schema and how a file gets from one release of it to the next.

Migrations first expand (a column with a default, a table, an index) and contract a release later, so release N-1 still
works on what N wrote and an image can be rolled back. A file two releases ahead is refused: what it holds may mean
something this code does not know.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import apsw

from eco_workers.errors import JournalCorruptError, JournalRefusedError
from eco_workers.journal.failpoints import reached
from eco_workers.journal.queries import SCHEMA
from eco_workers.journal.records import text_checksum

APPLICATION_ID: Final = 0x45434F57
"""`ECOW` in the file's header: `file` and people can tell a journal from any other database."""

FINGERPRINT: Final = "schema"
"""The line of `meta` that holds the checksum of the schema's text."""


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
    if found:
        problems = check_schema(connection)
        if problems:
            raise JournalCorruptError(f"open journal: {'; '.join(problems[:3])}")
    pending = [migration for migration in migrations if migration.release > found]
    for migration in pending:
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute(migration.sql)
            connection.pragma("user_version", migration.release)
            if migration.release == migrations[0].release:
                connection.pragma("application_id", APPLICATION_ID)
            _note_fingerprint(connection)
            reached("migrate.before-commit")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        reached("migrate.after-commit")
    return bool(pending)


def check_schema(connection: apsw.Connection) -> list[str]:
    """What is wrong with the file's own description of itself and with its few lines about itself.

    SQLite believes whatever text stands there: a flipped bit in a trigger is another trigger, one in an index's
    condition another index, and a line of `meta` with a flipped key is simply not there.
    """
    problems = []
    lines: dict[str, str] = {}
    try:
        for key, value, checksum in connection.execute("SELECT key, value, checksum FROM meta"):
            lines[key] = value
            if checksum != text_checksum(key, value):
                problems.append(f"meta {key!r}: checksum")
        if lines.get(FINGERPRINT) != fingerprint(connection):
            problems.append("schema: its text is not what was written")
    except (apsw.SQLError, UnicodeDecodeError) as error:
        problems.append(f"schema: {error}")
    return problems


def fingerprint(connection: apsw.Connection) -> str:
    """A checksum of the schema's text, whatever release wrote it."""
    described = connection.execute(
        "SELECT type, name, tbl_name, ifnull(sql, '') FROM sqlite_schema ORDER BY type, name"
    ).fetchall()
    return str(text_checksum(*(part for row in described for part in row)))


def _note_fingerprint(connection: apsw.Connection) -> None:
    value = fingerprint(connection)
    connection.execute(
        "INSERT OR REPLACE INTO meta (key, value, checksum) VALUES (?, ?, ?)",
        (FINGERPRINT, value, text_checksum(FINGERPRINT, value)),
    )
