"""Volumes that grow: to the size of the spec when that is raised, and by themselves when they fill up.

A claim is asked for more only when what was asked last has been seen twice: in the claim's capacity, and in the size
that the worker reports of its volume. For the second the claim carries a note, written with the size in one piece, so
that neither an old report nor a new operator grows a volume twice for one filling. Nothing here ever asks for less than
a claim asks now.

Where the operator may not look at storage classes, only the answer to the attempt tells that a class lets no volume
grow. That answer is kept in the status, and the attempt is not repeated before the spec changes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from enum import StrEnum
from typing import Any, Final

from eco_crds import contract
from eco_crds.conditions import ConditionType
from eco_crds.ecoworker import EcoWorker
from eco_crds.ecoworker import Growth as GrowthSpec
from eco_crds.quantity import parse
from eco_crds.wal import JournalMode, WalReport
from eco_operator import kinds
from eco_operator.errors import NOT_EXPANDABLE
from eco_operator.objects import ClaimState
from eco_operator.reconcile import delivery
from eco_operator.reconcile.hearing import is_fresh
from eco_operator.reconcile.observation import Observation, Shard
from eco_operator.reconcile.plan import Announce, Apply, EventType, ObjectRef, Outcome, Step

STEP_FACTOR: Final = Decimal("1.5")
"""A volume grows by half: few steps, since some clouds change a volume only once in six hours."""
FULL_PERCENT: Final = 80
"""A worker that was full once takes new tasks only when reserve and ballast fit again: five and twelve percent of a
small volume. So a full journal is helped from here on, whatever `at` says."""
MARGIN_PERCENT: Final = 3
"""By so much the use must fall below the bound before what was said of a volume that cannot grow is unsaid."""
_MI: Final = Decimal(2**20)
_GI: Final = Decimal(2**30)
_FROM: Final = " from "

Build = Callable[[str, str], dict[str, Any]]
"""The claim as wanted, with a size and the note on its growth."""


class Stage(StrEnum):
    """How far the growth of one volume is, the worst first; each but the last is a reason of StorageGrowing."""

    INFEASIBLE = "Infeasible"
    NOT_EXPANDABLE = "NotExpandable"
    MAX_REACHED = "MaxReached"
    RETRYING = "Retrying"
    UNBOUND = "NotBound"
    UNSEEN = "NotSeen"
    PENDING = "FileSystemResizePending"
    RESIZING = "Resizing"
    NONE = ""


CANNOT: Final = (Stage.INFEASIBLE, Stage.NOT_EXPANDABLE, Stage.MAX_REACHED)
"""A person has to do something."""
UNDER_WAY: Final = frozenset({Stage.UNBOUND, Stage.UNSEEN, Stage.PENDING, Stage.RESIZING})


@dataclass(frozen=True, slots=True)
class Growth:
    """How far the growth of one volume is, and what to ask for now."""

    stage: Stage
    message: str = ""
    size: str = ""
    """What the claim is to ask for now; empty when it asks for enough, or may not ask."""
    note: str = ""
    """What the claim has to say of it."""
    refused: str = ""
    """What the claim may not ask for, by the API server's own word."""


NO_GROWTH: Final = Growth(Stage.NONE)


def look(seen: Observation, worker: EcoWorker, shard: Shard, outcome: Outcome = Outcome()) -> Growth:  # noqa: B008  # frozen
    """How far the volume of a wanted shard is; `outcome` is what came of asking just now."""
    claim = _claim(shard)
    requested = _bytes(claim.requested) if claim is not None else None
    if claim is None or requested is None or worker.paused:
        return NO_GROWTH
    if parse(worker.spec.wal.size) > requested:
        return _ask(seen, shard, outcome, wanted=str(worker.spec.wal.size), why="the spec asks for more")
    if _is_resizing(claim):
        return _under_way(claim)
    rule, report = worker.spec.wal.growth, shard.probe.report
    if rule is None:
        return NO_GROWTH
    if report is None or not _is_filling(seen, rule, report):
        known_not_to = seen.classes.get(claim.storage_class or "") is False
        return Growth(Stage.NOT_EXPANDABLE, _no_class(claim)) if known_not_to else NO_GROWTH
    full = f"{report.volume.used_percent // 5 * 5} % full or more"
    raised_to, seen_bytes = _noted(claim)
    if raised_to == requested and report.volume.total_bytes <= seen_bytes:
        return Growth(Stage.UNSEEN, f"the claim has {claim.requested}, and the worker sees no more room than before")
    # Storage that deals in large pieces gives more than was asked; to ask for less than that would bring nothing.
    there = max(requested, _bytes(claim.capacity) or requested)
    if there >= parse(rule.max):
        return Growth(Stage.MAX_REACHED, f"{full}, and as large as wal.growth.max lets it be ({rule.max})")
    found = _ask(seen, shard, outcome, wanted=next_size(there, rule.max), why=full)
    # An old report is good enough to say how things are, and not to act upon.
    return found if is_fresh(seen, shard) or not found.size else NO_GROWTH


def next_size(there: Decimal, most: str | int) -> str:
    """Half as much again, in whole Gi (below two of them in whole Mi), and never more than `most`."""
    unit = _GI if there >= 2 * _GI else _MI
    count = int((there * STEP_FACTOR / unit).to_integral_value(ROUND_CEILING))
    if count * unit >= parse(most):
        return str(most)
    in_gi, rest = divmod(count, 1024)
    # As the API server would write it, or the claim would seem to have been changed by somebody else.
    return f"{count}Gi" if unit == _GI else f"{count}Mi" if rest else f"{in_gi}Gi"


def size(worker: EcoWorker, shard: Shard) -> str:
    """What the claim asks for now, so what it goes on asking for until it grows; the spec's size of a new one."""
    claim = _claim(shard)
    wanted = worker.spec.wal.size
    present = _bytes(claim.requested) if claim is not None else None
    if claim is None or present is None:
        return str(wanted)
    rule = worker.spec.wal.growth
    # As people wrote it where the API server has written the same amount otherwise.
    same = (str(it) for it in (wanted, *((rule.max,) if rule is not None else ())) if parse(it) == present)
    return next(same, claim.requested)


def note(worker: EcoWorker, shard: Shard) -> str:
    """What the claim has to say of its last growth, whoever asked for that."""
    claim = _claim(shard)
    if claim is None:
        return ""
    kept = claim.annotations.get(contract.ANNOTATION_GROWN, "")
    capacity = _bytes(claim.capacity)
    if worker.spec.wal.growth is None or not _is_resizing(claim) or capacity is None:
        return kept
    raised_to, seen_bytes = _noted(claim)
    if raised_to == _bytes(claim.requested) and (seen_bytes or not _total(shard)):
        return kept
    # Somebody else has asked for more, or nothing had been heard of the worker when it was asked for. It may see the
    # room before the claim says so: none beyond the old capacity counts as seen before.
    return f"{claim.requested}{_FROM}{min(_total(shard), int(capacity))}"


def decide(shard: Shard, found: Growth, build: Build, about: ObjectRef) -> Iterator[Step]:
    """Ask for more room, and tell when it is there."""
    claim, before = _claim(shard), shard.previous.volume_size if shard.previous is not None else None
    if claim is None or shard.claim is None:
        return
    if found.size:
        ask = f"{found.size} in place of {claim.requested} for {shard.name}"
        told = Announce(about, "VolumeGrowing", f"Asks for {ask}: {found.message}.")
        message = f"May not ask for {ask}: {_no_class(claim)}."
        no = Announce(about, "VolumeNotExpandable", message, EventType.WARNING)
        yield Apply(build(found.size, found.note), shard.claim, found.message, told, refused=no)
    capacity, was = _bytes(claim.capacity), _bytes(before or "")
    if capacity is not None and was is not None and capacity > was and not _is_resizing(claim):
        once = f"{shard.claim.uid}/{claim.capacity}"
        yield Announce(about, "VolumeGrown", f"The volume of {shard.name} has {claim.capacity}.", once=once)


def tell(seen: Observation, worker: EcoWorker, about: ObjectRef) -> Iterator[Step]:
    """The event of a volume that cannot grow, when that is new."""
    stage, message = summary(seen, worker)
    before = seen.previous.condition(ConditionType.STORAGE_GROWING)
    if stage in CANNOT and (before is None or before.reason != stage):
        # A look may come before its forerunner's status is there: what both follow upon is the same.
        once = f"{stage}/{before.last_transition_time if before is not None else ''}"
        yield Announce(about, f"Volume{stage.value}", f"{message}."[:1000], EventType.WARNING, once=once)


def summary(seen: Observation, worker: EcoWorker, outcome: Outcome = Outcome()) -> tuple[Stage, str]:  # noqa: B008  # frozen
    """The stage that counts for all shards, the worst, and the words on each that is there."""
    found = [(shard.name, look(seen, worker, shard, outcome)) for shard in seen.shards[: worker.spec.replicas]]
    stage = next((stage for stage in Stage if any(it.stage is stage for _, it in found)), Stage.NONE)
    return stage, "; ".join(f"{name}: {it.message}" for name, it in found if it.stage is stage)


def refused(seen: Observation, shard: Shard, outcome: Outcome) -> str | None:
    """The size that the API server will not let the volume have, as the status has to remember it."""
    found = look(seen, seen.worker, shard, outcome) if seen.worker is not None else NO_GROWTH
    return found.refused or _refused_before(seen, shard)


def classes_in_question(seen: Observation) -> set[str]:
    """Storage classes of which it matters now whether their volumes may grow."""
    worker = seen.worker
    if worker is None or worker.paused:
        return set()
    claims = [claim for shard in seen.shards[: worker.spec.replicas] if (claim := _claim(shard)) is not None]
    wanted = parse(worker.spec.wal.size)
    return {
        it.storage_class
        for it in claims
        if it.storage_class and (worker.spec.wal.growth is not None or wanted > (_bytes(it.requested) or wanted))
    }


def _ask(seen: Observation, shard: Shard, outcome: Outcome, *, wanted: str, why: str) -> Growth:
    """Ask for a size, or say why that is of no use."""
    claim, worker = _claim(shard), seen.worker
    assert claim is not None, "asked of claims that are there"  # noqa: S101  # a caller's mistake
    assert worker is not None, "asked of valid objects"  # noqa: S101  # a caller's mistake
    if not claim.is_bound:
        return Growth(Stage.UNBOUND, f"asks for {wanted} once there is a volume")
    expands = seen.classes.get(claim.storage_class or "")
    is_refused = _was_refused(seen, shard, outcome) or _refused_before(seen, shard) == wanted
    no = f"{claim.requested} instead of {wanted}: {_no_class(claim)}"
    if expands is False:
        return Growth(Stage.NOT_EXPANDABLE, no)
    if expands is None and is_refused:
        return Growth(Stage.NOT_EXPANDABLE, no, refused=wanted)
    kept = claim.annotations.get(contract.ANNOTATION_GROWN, "")
    grown = kept if worker.spec.wal.growth is None else f"{wanted}{_FROM}{_total(shard)}"
    # What goes by way of Argo CD is asked for when it comes to it; until then nothing has failed.
    stage = Stage.RESIZING if delivery.is_by_argocd(worker) else Stage.RETRYING
    return Growth(stage, why, wanted, grown)


def _under_way(claim: ClaimState) -> Growth:
    error = f": {claim.resize_error}" if claim.resize_error else ""
    told = f"from {claim.capacity} to {claim.requested}{error}"
    if claim.is_infeasible:
        return Growth(Stage.INFEASIBLE, told)
    return Growth(Stage.PENDING if claim.resize == Stage.PENDING else Stage.RESIZING, told)


def _is_resizing(claim: ClaimState) -> bool:
    """Whether the claim asks for more than there is of its volume."""
    requested, capacity = _bytes(claim.requested), _bytes(claim.capacity)
    return claim.is_bound and requested is not None and capacity is not None and requested > capacity


def _is_filling(seen: Observation, rule: GrowthSpec, report: WalReport) -> bool:
    before = seen.previous.condition(ConditionType.STORAGE_GROWING)
    margin = MARGIN_PERCENT if before is not None and before.reason in CANNOT else 0
    at = min(rule.at, FULL_PERCENT) if report.mode is JournalMode.READ_ONLY else rule.at
    return report.volume.used_percent >= at - margin


def _no_class(claim: ClaimState) -> str:
    if not claim.storage_class:
        return "its volume has no storage class, and without one none grows"
    return f"storage class {claim.storage_class} lets no volume grow"


def _was_refused(seen: Observation, shard: Shard, outcome: Outcome) -> bool:
    """Whether the API server has just said so. Of a class that is known to allow it the server is only late to know."""
    claim = shard.claim
    if claim is None or claim.claim is None or seen.classes.get(claim.claim.storage_class or ""):
        return False
    return f"{kinds.CLAIM.kind}/{claim.name}" in outcome.unexpandable or NOT_EXPANDABLE in delivery.failure(seen, shard)


def _refused_before(seen: Observation, shard: Shard) -> str | None:
    """What was refused under the present spec."""
    generation = seen.owned.generation if seen.owned is not None else None
    is_current = seen.previous.observed_generation == generation
    return shard.previous.growth_refused if shard.previous is not None and is_current else None


def _noted(claim: ClaimState) -> tuple[Decimal | None, int]:
    """What the claim's request was last raised to, and how many bytes its worker saw before."""
    size, _, total = claim.annotations.get(contract.ANNOTATION_GROWN, "").partition(_FROM)
    return _bytes(size), int(total) if total.isdecimal() else 0


def _total(shard: Shard) -> int:
    return shard.probe.report.volume.total_bytes if shard.probe.report is not None else 0


def _claim(shard: Shard) -> ClaimState | None:
    if shard.claim is None or shard.claim.is_deleting:
        return None
    return shard.claim.claim


def _bytes(amount: str) -> Decimal | None:
    """An amount of an object that others write too; None for one that is not there or cannot be read."""
    try:
        return parse(amount)
    except ValueError:
        return None
