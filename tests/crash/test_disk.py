"""Disks that fail, fill up, or turn read-only under a journal."""

import asyncio
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from eco_workers.errors import JournalFatalError, JournalFullError
from eco_workers.journal import Limits, NewTask, SqliteJournal
from tests.crash.faults import after_failure, fail_once
from tests.support.cuts import recording
from tests.support.parts import require
from tests.support.powercut import Fault, Operation
from tests.support.scratch import memory_directory
from tests.support.workload import IDENTITY

MIB: Final = 1_048_576
VOLUME_BYTES: Final = {"ext4": 24 * MIB, "xfs": 320 * MIB}
"""XFS takes no smaller ones."""
NAMES: Final = frozenset({"resize"})
WAIT_S: Final = 20.0


@pytest.mark.parametrize(
    ("operation", "fault"),
    [("write", "error"), ("write", "full"), ("write", "short"), ("sync", "error")],
)
async def test_a_failed_write_or_sync_loses_nothing_that_was_acknowledged(operation: Operation, fault: Fault) -> None:
    """Whichever of them it is, and if the power goes right after it."""
    complaints, failures = [], 0
    for nth in (*range(1, 24), 31, 47, 64, 90):
        with memory_directory() as directory:
            recorder, failed = await fail_once(directory / "work", nth, operation, nth, fault)
            failures += failed
            tally = await after_failure(directory / "cut", recorder, nth)
            complaints += [f"{operation} {nth}: {line}" for line in tally.complaints]
    assert complaints == []
    assert failures > 15


async def test_after_a_failed_sync_nothing_more_is_acknowledged() -> None:
    """The kernel has dropped the pages: another sync of the same file would report a success that is none."""
    with memory_directory() as directory:
        async with recording(directory) as tape:
            journal = await SqliteJournal.open(tape.plan.path, identity=IDENTITY, plan=tape.plan)
            await journal.accept([task(0)])
            tape.recorder.fault = lambda operation, _name: "error" if operation == "sync" else None
            with pytest.raises(JournalFatalError):
                await journal.accept([task(1)])
            tape.recorder.fault = lambda _operation, _name: None
            with pytest.raises(JournalFatalError):
                await journal.accept([task(2)])
            with pytest.raises(JournalFatalError):
                await journal.claim(10, names=NAMES)
            await journal.close()


@dataclass(frozen=True, slots=True)
class Volume:
    """A real file system of a small true size, in a file of its own."""

    kind: str
    image: Path
    path: Path

    def mount(self) -> None:
        """Put it in its place; a damaged ext4 is repaired first, as every boot would do."""
        if self.kind == "ext4":
            subprocess.run(["e2fsck", "-p", "-f", str(self.image)], capture_output=True, check=False)
        options = "loop,errors=remount-ro" if self.kind == "ext4" else "loop"
        done = subprocess.run(
            ["mount", "-o", options, str(self.image), str(self.path)], capture_output=True, check=False
        )
        require(done.returncode == 0, f"loop mount of {self.kind}: {done.stderr.decode().strip()}")

    def unmount(self) -> None:
        """Take it away."""
        subprocess.run(["umount", str(self.path)], check=True)

    def fail(self) -> None:
        """Let the kernel find the file system broken: ext4 turns read-only, XFS answers with I/O errors."""
        if self.kind == "xfs":
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.ioctl(descriptor, XFS_IOC_GOINGDOWN, struct.pack("I", XFS_FLUSH_NOTHING))
            finally:
                os.close(descriptor)
            return
        device = Path(os.path.realpath(f"/sys/dev/block/{os.major(self._device)}:{os.minor(self._device)}")).name
        trigger = Path(f"/sys/fs/ext4/{device}/trigger_fs_error")
        require(trigger.exists(), f"{trigger}")
        trigger.write_text("injected by a test")

    @property
    def _device(self) -> int:
        return self.path.stat().st_dev


XFS_IOC_GOINGDOWN: Final = 0x8004587D
XFS_FLUSH_NOTHING: Final = 2


@pytest.fixture(params=["ext4", "xfs"])
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Volume]:
    kind: str = request.param
    require(os.geteuid() == 0, "root, to mount a small file system")
    made = Volume(kind, tmp_path / "volume.img", tmp_path / "volume")
    made.path.mkdir()
    with made.image.open("wb") as file:
        file.truncate(VOLUME_BYTES[kind])
    done = subprocess.run([f"mkfs.{kind}", "-q", str(made.image)], capture_output=True, check=False)
    require(done.returncode == 0, f"mkfs.{kind}")
    made.mount()
    try:
        yield made
    finally:
        # Lazily: a test that failed may have left a journal open, and nothing else may stumble over the mount.
        subprocess.run(["umount", "--lazy", str(made.path)], check=True)


def task(number: int) -> NewTask:
    return NewTask(f"task-{number}", "resize", b'{"n":"%s"}' % (b"x" * 2_000), "q.batch")


def fill(directory: Path) -> Path:
    """Take every byte that is free."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file:
        for chunk in (MIB, 4096, 512):
            with suppress(OSError):
                while True:
                    file.write(b"\0" * chunk)
    return filler


@pytest.mark.root
async def test_on_a_full_volume_running_work_ends_and_new_work_waits(volume: Volume) -> None:
    """And when room returns the journal leaves the mode by itself, with its ballast made again."""
    limits = Limits(reserve_bytes=MIB, ballast_bytes=2 * MIB, volume_poll_s=0.0, checkpoint_idle_s=0.05)
    async with await SqliteJournal.open(volume.path / "wal.db", identity=IDENTITY, limits=limits) as journal:
        await journal.accept([task(number) for number in range(200)])
        claimed = await journal.claim(150, names=NAMES)
        filler = fill(volume.path)
        for running in claimed:
            await journal.complete(running.task_id, b'{"ok":true}')
        with pytest.raises(JournalFullError):
            await journal.accept([task(1_000)])
        assert (await journal.statistics()).counts.completed == 150
        for running in await journal.claim(50, names=NAMES):
            await journal.fail(running.task_id, "no such picture")
        assert await journal.prune(keep_s=-1.0) == 150
        filler.unlink()
        async with asyncio.timeout(WAIT_S):
            while True:
                with suppress(JournalFullError):
                    await journal.accept([task(1_001)])
                    break
                await journal.statistics()
        assert (volume.path / "wal.db.ballast").exists()
        assert await journal.verify() == []


@pytest.mark.root
async def test_a_volume_that_breaks_stops_the_journal_and_loses_nothing(volume: Volume) -> None:
    path = volume.path / "wal.db"
    journal = await SqliteJournal.open(path, identity=IDENTITY)
    await journal.accept([task(number) for number in range(20)])
    volume.fail()
    with pytest.raises(JournalFatalError):
        await journal.accept([task(100)])
    await journal.close()
    volume.unmount()
    volume.mount()
    async with await SqliteJournal.open(path, identity=IDENTITY) as again:
        assert (await again.statistics()).counts.due == 20
        assert await again.verify() == []
