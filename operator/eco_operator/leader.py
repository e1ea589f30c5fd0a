"""Leadership by a Lease: only the holder writes, and one that cannot renew in time stops at once.

The clocks of two machines are never compared: a candidate waits `lease_duration_s` by its own clock after the last
change of the Lease it saw. Each request has a deadline of its own, so that one that hangs cannot outlive the lease.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import structlog

from eco_operator.errors import ApiError, ConflictError, LeaseLostError, NotFoundError

logger = structlog.get_logger(__name__)

Lease = Mapping[str, Any]
EXPIRY_JITTER_S: Final = 0.2
"""Over so long candidates spread when a Lease runs out under their eyes."""


class LeaseStore(Protocol):
    """Where the Lease is kept. `replace` must fail with `ConflictError` when it changed since it was read."""

    async def get_lease(self) -> Lease:
        """The Lease as it is; raises `NotFoundError`."""

    async def create_lease(self, spec: Mapping[str, Any]) -> Lease:
        """Make it; raises `ConflictError` when there is one."""

    async def replace_lease(self, lease: Lease, spec: Mapping[str, Any]) -> Lease:
        """Give the Lease that was read a new spec."""


@dataclass(frozen=True, slots=True)
class LeaderStatistics:
    """How leadership stands at one moment."""

    is_leader: bool
    holder: str
    renewed_ago_s: float | None
    attempted_ago_s: float | None


class Elector:
    """Takes the Lease, keeps it, and gives it back."""

    def __init__(
        self,
        store: LeaseStore,
        *,
        identity: str,
        lease_duration_s: float = 15.0,
        renew_deadline_s: float = 10.0,
        retry_period_s: float = 2.0,
        wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._identity = identity
        self._lease_duration_s = lease_duration_s
        self._renew_deadline_s = renew_deadline_s
        self._retry_period_s = retry_period_s
        self._wall_clock = wall_clock
        self._lease: Lease | None = None
        self._seen: tuple[str, str] | None = None
        self._seen_at = 0.0
        self._attempted_at: float | None = None
        self._renewed_at: float | None = None
        self._is_leader = False

    @property
    def is_leader(self) -> bool:
        """Whether this process holds the Lease and its last renewal is younger than the deadline."""
        return self._is_leader

    def statistics(self) -> LeaderStatistics:
        """How leadership stands now."""
        now = _now()
        return LeaderStatistics(
            is_leader=self._is_leader,
            holder=_holder(self._lease),
            renewed_ago_s=None if self._renewed_at is None else now - self._renewed_at,
            attempted_ago_s=None if self._attempted_at is None else now - self._attempted_at,
        )

    async def acquire(self) -> None:
        """Return once this process leads; waits as long as another does."""
        while True:
            try:
                async with asyncio.timeout(self._renew_deadline_s):
                    if await self._try_acquire():
                        self._is_leader = True
                        logger.info("leading", identity=self._identity)
                        return
            except (ApiError, TimeoutError) as error:
                logger.warning("lease not reached", error=str(error) or "no answer in time")
            await asyncio.sleep(self._pause_s())

    def _pause_s(self) -> float:
        """Until the next look at the Lease: twice in a period, and once more as soon as it may have run out."""
        pause_s = self._retry_period_s / 2 * random.uniform(0.8, 1.0)  # noqa: S311  # jitter, no secret
        left_s = self._seen_at + self._lease_duration_s - _now()
        if _holder(self._lease) and left_s > 0:
            return min(pause_s, left_s + random.uniform(0.0, EXPIRY_JITTER_S))  # noqa: S311  # likewise
        return pause_s

    async def hold(self) -> None:
        """Renew for as long as this process leads; raises `LeaseLostError` when it no longer does. Never returns."""
        while True:
            await asyncio.sleep(self._retry_period_s)
            assert self._renewed_at is not None, "held before it was acquired"  # noqa: S101  # a caller's mistake
            left_s = self._renewed_at + self._renew_deadline_s - _now()
            try:
                async with asyncio.timeout(max(0.0, left_s)):
                    await self._renew()
            except TimeoutError:
                self._is_leader = False
                raise LeaseLostError(f"not renewed within {self._renew_deadline_s:g} s") from None
            except LeaseLostError:
                self._is_leader = False
                raise

    async def release(self) -> None:
        """Give the Lease back, so that the next candidate need not wait; never fails."""
        if not self._is_leader or self._lease is None:
            return
        self._is_leader = False
        spec = self._spec(acquired=str(self._lease["spec"].get("acquireTime", ""))) | {
            "holderIdentity": "",
            "leaseDurationSeconds": 1,
        }
        try:
            async with asyncio.timeout(self._retry_period_s):
                try:
                    await self._store.replace_lease(self._lease, spec)
                except ConflictError:
                    # A renewal that was cut off on its way may have arrived all the same.
                    await self._store.replace_lease(await self._reread(), spec)
            logger.info("lease released", identity=self._identity)
        except (ApiError, LeaseLostError, TimeoutError) as error:
            logger.warning("lease not released, it will run out", error=str(error) or "no answer in time")

    async def _try_acquire(self) -> bool:
        self._attempted_at = _now()
        try:
            lease = await self._store.get_lease()
        except NotFoundError:
            try:
                self._took(await self._store.create_lease(self._spec()))
            except ConflictError:
                return False
            return True
        self._observe(lease)
        holder = _holder(lease)
        if holder and holder != self._identity and _now() < self._seen_at + self._lease_duration_s:
            return False
        transitions = int(lease.get("spec", {}).get("leaseTransitions") or 0)
        if holder != self._identity:
            transitions += 1
        started = _now()
        try:
            taken = await self._store.replace_lease(lease, self._spec(transitions=transitions))
        except ConflictError:
            return False
        self._took(taken, at=started)
        return True

    async def _renew(self) -> None:
        """One renewal, tried until it is done, the caller's deadline passes, or another holder is seen."""
        assert self._lease is not None, "renewed before it was acquired"  # noqa: S101  # a caller's mistake
        lease = self._lease
        while True:
            spec = lease.get("spec", {})
            self._attempted_at = started = _now()
            try:
                renewed = await self._store.replace_lease(
                    lease,
                    self._spec(
                        acquired=str(spec.get("acquireTime", "")), transitions=int(spec.get("leaseTransitions") or 0)
                    ),
                )
            except ConflictError:
                lease = await self._reread()
            except NotFoundError:
                raise LeaseLostError("the Lease was deleted") from None
            except ApiError as error:
                logger.warning("lease not renewed, trying again", error=str(error))
                await asyncio.sleep(min(1.0, self._retry_period_s / 2))
            else:
                self._took(renewed, at=started)
                return

    async def _reread(self) -> Lease:
        while True:
            try:
                lease = await self._store.get_lease()
            except NotFoundError:
                raise LeaseLostError("the Lease was deleted") from None
            except ApiError as error:
                logger.warning("lease not read, trying again", error=str(error))
                await asyncio.sleep(min(1.0, self._retry_period_s / 2))
                continue
            if _holder(lease) != self._identity:
                raise LeaseLostError(f"taken by {_holder(lease) or 'nobody'}")
            return lease

    def _observe(self, lease: Lease) -> None:
        spec = lease.get("spec", {})
        record = (_holder(lease), str(spec.get("renewTime", "")))
        self._lease = lease
        if record != self._seen:
            self._seen, self._seen_at = record, _now()

    def _took(self, lease: Lease, *, at: float | None = None) -> None:
        self._observe(lease)
        # From before the request: what counts is when others may have begun to wait.
        self._renewed_at = _now() if at is None else at

    def _spec(self, *, acquired: str = "", transitions: int = 0) -> dict[str, Any]:
        now = self._wall_clock().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._lease_duration_s)),
            "acquireTime": acquired or now,
            "renewTime": now,
            "leaseTransitions": transitions,
        }


def _holder(lease: Lease | None) -> str:
    return str((lease or {}).get("spec", {}).get("holderIdentity") or "")


def _now() -> float:
    return asyncio.get_running_loop().time()
