"""The only module that talks to workers: it asks each for its report, round after round, and passes commands on.

What it knows of a shard is the last report and how long ago that came; what it means is for others to judge. A report
that says something new puts the EcoWorker's key on the queue; ages that merely grow do not.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import aiohttp
import structlog
from pydantic import ValidationError

from eco_crds import contract
from eco_crds.wal import JournalMode, WalReport
from eco_operator.errors import CommandError
from eco_operator.shards import Probe, ShardKey, Target

logger = structlog.get_logger(__name__)

REPORT_BYTES_MAX: Final = 65_536
AGE_STEP_S: Final = 10.0
PAUSE_S_MIN: Final = 0.05
HURRIED_TARGETS_MAX: Final = 64
COMMAND_ANSWER_BYTES_MAX: Final = 1024
COMMAND_TIMEOUT_S: Final = 15.0
"""A worker that is fenced gives its running tasks ten seconds before it answers."""
GRAVE: Final = frozenset({JournalMode.QUARANTINED, JournalMode.LOST})
"""Modes that are acted upon when a second report says the same, so that one is worth a look."""


@dataclass(frozen=True, slots=True)
class ProberStatistics:
    """How probing goes."""

    targets: int
    answering: int
    rounds: int
    last_round_ago_s: float | None
    last_round_took_s: float
    oldest_answer_s: float


@dataclass(slots=True)
class _Memory:
    report: WalReport | None = None
    received_at: float | None = None
    pod_uid: str = ""
    process: str = ""
    error: str = ""
    failures: int = 0
    attempts: int = 0
    same_mode: int = 0
    fingerprint: object = None


@dataclass(slots=True)
class Prober:
    """Asks every worker, at most `concurrency` at the same time."""

    targets: Callable[[], Iterable[Target]]
    is_wanted: Callable[[ShardKey], bool]
    """Whether something may still ask about that shard; what nobody wants and no pod answers for is forgotten."""
    on_change: Callable[[ShardKey], None]
    interval_s: float = 5.0
    timeout_s: float = 2.0
    concurrency: int = 64
    unknown_after_failures: int = 3
    port: int = contract.ADMIN_PORT
    _memory: dict[ShardKey, _Memory] = field(default_factory=dict)
    _rounds: int = 0
    _finished_at: float | None = None
    _took_s: float = 0.0
    _targets: int = 0
    _session: aiohttp.ClientSession | None = None
    _hurried: dict[ShardKey, Target] = field(default_factory=dict)
    _wakeup: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Ask round after round until cancelled."""
        # A connection kept for each worker of a fleet would cost more memory than making one anew costs time.
        connector = aiohttp.TCPConnector(limit=self.concurrency, force_close=True)
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        # No trust in the environment: a proxy must not stand between operator and pod.
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session:
            self._session = session
            while True:
                started = _now()
                await self.round(session)
                await self._until(max(_now() + PAUSE_S_MIN, started + self.interval_s))

    async def round(self, session: aiohttp.ClientSession) -> None:
        """Ask every target once."""
        started = _now()
        targets = list(self.targets())
        self._targets = len(targets)
        pending = iter(targets)

        async def ask_in_turn() -> None:
            for target in pending:
                await self._ask(session, target)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.concurrency, len(targets))):
                group.create_task(ask_in_turn())
        self._forget({target.shard for target in targets})
        self._rounds += 1
        self._finished_at = _now()
        self._took_s = self._finished_at - started

    def hurry(self, target: Target) -> None:
        """Have a pod asked before the next round: it has only now become ready, and its EcoWorker waits for it."""
        if len(self._hurried) < HURRIED_TARGETS_MAX:
            self._hurried[target.shard] = target
            self._wakeup.set()

    async def _until(self, due: float) -> None:
        """Rest until the next round, but for those in a hurry."""
        while (rest_s := due - _now()) > 0:
            try:
                async with asyncio.timeout(rest_s):
                    await self._wakeup.wait()
            except TimeoutError:
                return
            self._wakeup.clear()
            hurried, self._hurried = self._hurried, {}
            await self.ask_now(hurried.values())
            await asyncio.sleep(PAUSE_S_MIN)

    async def ask_now(self, targets: Iterable[Target]) -> None:
        """Ask these targets out of turn, for a decision that must not rest on a report some seconds old."""
        session = self._session
        if session is None or session.closed:
            return
        async with asyncio.TaskGroup() as group:
            for target in targets:
                group.create_task(self._ask(session, target))

    def probe(self, shard: ShardKey) -> Probe:
        """What is known of that shard now."""
        memory = self._memory.get(shard) or _Memory()
        return Probe(
            report=memory.report,
            age_s=None if memory.received_at is None else _now() - memory.received_at,
            pod_uid=memory.pod_uid,
            process=memory.process,
            error=memory.error,
            failures=memory.failures,
            attempts=memory.attempts,
            same_mode=memory.same_mode,
        )

    def statistics(self) -> ProberStatistics:
        """How probing goes now."""
        now = _now()
        ages = [now - memory.received_at for memory in self._memory.values() if memory.received_at is not None]
        return ProberStatistics(
            targets=self._targets,
            answering=sum(1 for memory in self._memory.values() if memory.report is not None and not memory.failures),
            rounds=self._rounds,
            last_round_ago_s=None if self._finished_at is None else now - self._finished_at,
            last_round_took_s=self._took_s,
            oldest_answer_s=max(ages, default=0.0),
        )

    async def _ask(self, session: aiohttp.ClientSession, target: Target) -> None:
        memory = self._memory.setdefault(target.shard, _Memory())
        memory.attempts += 1
        try:
            report = await self._fetch(session, target)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            memory.failures += 1
            memory.error = _why(error)
            if memory.failures in {1, self.unknown_after_failures}:
                self.on_change(target.shard)
            return
        is_another = (memory.pod_uid, memory.process) != (target.pod_uid, target.process)
        is_same = not is_another and memory.report is not None and memory.report.mode is report.mode
        memory.same_mode = memory.same_mode + 1 if is_same else 1
        memory.report, memory.received_at = report, _now()
        memory.pod_uid, memory.process = target.pod_uid, target.process
        was_failing, memory.failures, memory.error = memory.failures > 0, 0, ""
        fingerprint = _fingerprint(report)
        is_confirmed = memory.same_mode == 2 and report.mode in GRAVE
        if was_failing or is_another or is_confirmed or fingerprint != memory.fingerprint:
            memory.fingerprint = fingerprint
            self.on_change(target.shard)

    async def command(self, target: Target, name: str, *, token: str) -> None:
        """Have a worker do one of the commands of its admin surface, and hear from it at once what came of that.

        Raises `CommandError` with the worker's own words, or with the reason why there are none.
        """
        session = self._session
        if session is None or session.closed:
            raise CommandError(f"{name} {target.shard.shard}: not probing yet")
        headers = {"Authorization": f"Bearer {token}"}
        timeout = aiohttp.ClientTimeout(total=COMMAND_TIMEOUT_S)
        url = f"http://{_host(target)}:{self.port}/wal/{name}"
        try:
            async with session.post(url, headers=headers, timeout=timeout, allow_redirects=False) as answer:
                said = (await answer.content.read(COMMAND_ANSWER_BYTES_MAX)).decode(errors="replace")
                if answer.status != 200:
                    raise CommandError(f"{name} {target.shard.shard}: HTTP {answer.status} {said}")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise CommandError(f"{name} {target.shard.shard}: {_why(error)}") from None
        await self._ask(session, target)

    async def _fetch(self, session: aiohttp.ClientSession, target: Target) -> WalReport:
        async with session.get(f"http://{_host(target)}:{self.port}/wal", allow_redirects=False) as answer:
            if answer.status != 200:
                raise ValueError(f"HTTP {answer.status}")
            content = await answer.content.read(REPORT_BYTES_MAX + 1)
            while len(content) <= REPORT_BYTES_MAX and (more := await answer.content.read(REPORT_BYTES_MAX)):
                content += more
        if len(content) > REPORT_BYTES_MAX:
            raise ValueError(f"report of more than {REPORT_BYTES_MAX} bytes")
        try:
            report = WalReport.model_validate_json(content)
        except ValidationError as error:
            raise ValueError(f"not a report: {error.error_count()} fields wrong") from None
        if report.shard != target.shard.shard:
            # Pod addresses are given out again: another pod may answer where ours was.
            raise ValueError(f"answered for shard {report.shard[:64]!r}")
        return report

    def _forget(self, targeted: set[ShardKey]) -> None:
        for shard in [shard for shard in self._memory if shard not in targeted and not self.is_wanted(shard)]:
            with contextlib.suppress(KeyError):
                del self._memory[shard]


def _fingerprint(report: WalReport) -> object:
    """All of a report that is worth a look: everything but ages that merely grow and bytes that flicker."""
    ages = report.ages
    stepped = tuple(
        None if age is None else age // AGE_STEP_S
        for age in (ages.oldest_due_s, ages.oldest_running_s, ages.oldest_unsynced_s, ages.last_progress_s)
    )
    changing = {"ages": True, "volume": True, "last_sync_s": True}
    volume = (report.volume.used_percent, report.volume.total_bytes)
    return stepped, volume, report.model_dump_json(exclude=changing)


def _host(target: Target) -> str:
    return f"[{target.ip}]" if ":" in target.ip else target.ip


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (str(error) or type(error).__name__)[:256]


def _now() -> float:
    return asyncio.get_running_loop().time()
