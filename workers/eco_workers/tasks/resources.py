"""Clients and processes that tasks share, each opened when a task first needs it."""

import asyncio
import importlib
from typing import TYPE_CHECKING

from eco_workers import tls
from eco_workers.settings import Settings
from eco_workers.sync.rows import Address
from eco_workers.tasks.processes import Processes

if TYPE_CHECKING:
    # botocore costs tens of MiB: an idle worker does not carry it.
    from eco_workers.storage.objects import ObjectStore


class Resources:
    """One of each for the whole process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._objects: ObjectStore | None = None
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

    async def close(self) -> None:
        """Close what was opened."""
        if self._objects is not None:
            await self._objects.close()
        await self.processes.close()


def address_of(settings: Settings) -> Address:
    """The database that the settings name."""
    return Address(
        settings.postgres_host,
        settings.postgres_port,
        settings.postgres_db,
        settings.postgres_user,
        settings.postgres_password.get_secret_value(),
        tls.for_database(settings.postgres_sslmode, settings.postgres_ca),
    )
