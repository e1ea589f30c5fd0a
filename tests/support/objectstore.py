"""An S3 stand-in of a test's own: moto's server as a process on a loopback port. It forgets everything when it ends."""

import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import aioboto3

from eco_workers.storage.segments import SegmentStore
from tests.support.processes import Program, answers, free_port


@dataclass(slots=True)
class ObjectStore:
    """One moto server."""

    directory: Path
    port: int = field(default_factory=free_port)
    _server: Program = field(init=False)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        argv = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(self.port)]
        env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
        self._server = Program("moto", argv, self.directory / "moto.log", env, directory=self.directory)

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._server.start()
        self._server.wait_ready(lambda: answers(self.port))

    def send(self, number: int) -> None:
        """Send it a signal."""
        self._server.send(number)

    def close(self) -> None:
        """End it, and all it held with it."""
        self._server.kill()


async def make_bucket(server: ObjectStore) -> str:
    """A bucket of a test's own."""
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    session = aioboto3.Session("test", "test", region_name="us-east-1")
    async with session.client("s3", endpoint_url=server.url) as client:
        await client.create_bucket(Bucket=bucket)
    return bucket


async def segment_store(server: ObjectStore, bucket: str) -> SegmentStore:
    """The store of a replica in a bucket."""
    return await SegmentStore.open(
        bucket=bucket, endpoint_url=server.url, region="us-east-1", access_key="test", secret_key="test"
    )
