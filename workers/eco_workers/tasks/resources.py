"""Clients and processes that tasks share, each opened when a task first needs it."""

import asyncio
import importlib
import re
from typing import TYPE_CHECKING, Final

from eco_workers import tls
from eco_workers.errors import SettingsError
from eco_workers.settings import Settings
from eco_workers.sync.rows import Address
from eco_workers.tasks.processes import Processes

if TYPE_CHECKING:
    # botocore costs tens of MiB: an idle worker does not carry it.
    from eco_workers.storage.objects import ObjectStore
    from eco_workers.sync.sessions import Sessions

DATABASE_NAME_MAX: Final = 63
"""PostgreSQL's bound."""
DATABASE_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,63}")


class Resources:
    """One of each for the whole process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._objects: ObjectStore | None = None
        self._sessions: Sessions | None = None
        self._opening = asyncio.Lock()
        self.processes = Processes(settings.cpu_processes)

    @property
    def settings(self) -> Settings:
        """Settings of the process."""
        return self._settings

    async def objects(self) -> "ObjectStore":
        """The object store of this worker."""
        async with self._opening:
            if self._objects is None:
                # Deferred, see above, and beside the loop: the import takes most of a second.
                module = await asyncio.to_thread(importlib.import_module, "eco_workers.storage.objects")
                settings = self._settings
                self._objects = await module.ObjectStore.open(
                    bucket=settings.s3_bucket,
                    endpoint_url=settings.s3_endpoint_url or None,
                    region=settings.aws_region,
                    access_key=settings.aws_access_key_id.get_secret_value(),
                    secret_key=settings.aws_secret_access_key.get_secret_value(),
                )
            return self._objects

    async def sessions(self) -> "Sessions":
        """Connections to the databases, for tasks."""
        async with self._opening:
            if self._sessions is None:
                module = await asyncio.to_thread(importlib.import_module, "eco_workers.sync.sessions")
                settings = self._settings
                self._sessions = module.Sessions(
                    lambda database: address_of(settings, database),
                    connections_max=settings.postgres_connections_max,
                )
            return self._sessions

    async def close(self) -> None:
        """Close what was opened."""
        if self._objects is not None:
            await self._objects.close()
        if self._sessions is not None:
            await self._sessions.close()
        await self.processes.close()


def address_of(settings: Settings, database: str = "") -> Address:
    """Where a database is; the one that the settings name when none is given. Raises SettingsError."""
    name = database or settings.postgres_db
    if not DATABASE_NAME.fullmatch(name):
        raise SettingsError(f"database {name!r}: want 1 to {DATABASE_NAME_MAX} of A-Z a-z 0-9 _ -")
    host, _, port = settings.postgres_hosts.get(name, "").partition(":") if database else ("", "", "")
    if not (host or settings.postgres_host):
        raise SettingsError(f"POSTGRES_HOST: missing, and POSTGRES_HOSTS does not name {name!r}")
    return Address(
        host or settings.postgres_host,
        int(port or 5432) if host else settings.postgres_port,
        name,
        settings.postgres_user,
        settings.postgres_password.get_secret_value(),
        tls.for_database(settings.postgres_sslmode, settings.postgres_ca),
    )
