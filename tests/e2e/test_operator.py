"""What the operator does, and does not do, around living workers: restarts, repairs, deletions, outages."""

import contextlib
import functools
import io
import json
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from eco_crds.contract import claim_name
from eco_lab.demo import broker, install, manifests
from eco_lab.demo.evidence import collect, synced_rows
from eco_lab.demo.kubectl import WorkerPod
from eco_lab.demo.ledger import settle, table
from eco_lab.demo.services import management
from eco_lab.demo.story import TASK_NAME, Plan, Stage, publish, wait_ready
from eco_lab.demo.watch import columns
from eco_lab.environment import LabEnvironment
from eco_workers import headers
from tests.e2e.conftest import OpenStage
from tests.support.audit import AuditLog
from tests.support.parts import require
from tests.support.waiting import stays, until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
]

PLAN = Plan(name="e2e-operator", good=60, broken=0)
REPAIRED_S_MAX = 10
PROBE_PERIOD_S = 5
NOT_BEFORE_S = 60
"""Long enough to take the workers away first, which needs about 15 s."""
QUIET_S = 12
"""Two periods of the operator's probe, and some."""
SETTLING_TRIES_MAX = 10
WORKER = manifests.WORKER


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened(open_stage: OpenStage) -> AsyncIterator[Stage]:
    async with open_stage(PLAN) as stage:
        yield stage


@pytest_asyncio.fixture(loop_scope="module")
async def stage(opened: Stage) -> Stage:
    """The stage with its EcoWorker and WalSync applied, Ready, and nothing left to do."""
    await opened.kubectl.apply([manifests.eco_worker(opened.services), manifests.wal_sync(opened.services)])
    await wait_ready(opened)
    return opened


async def audit_log(lab: LabEnvironment) -> Path:
    require(lab.audit_log, "an audit log of the API server (a cluster that the lab did not start)")
    assert lab.audit_log is not None
    return lab.audit_log


async def test_a_deleted_operator_pod_restarts_no_worker_and_patches_nothing(stage: Stage) -> None:
    """The new process finds everything as it should be: the API server's audit log shows no write but the Lease's."""
    log = await audit_log(stage.lab)
    await settled(log)
    before = identities(await stage.proxy.worker_pods(stage.plan.name))
    audit = AuditLog.from_now(log)
    old = set(await install.operator_pods(stage.kubectl))
    await stage.kubectl.run("delete", "pod", "-n", install.NAMESPACE, *old)
    await until("a new operator pod leads", lambda: leads_anew(stage, old), within_s=60)
    # A restarted operator lists everything and decides on every object at once; two probe periods later it has also
    # heard of every worker.
    await stays("no write by the operator", lambda: silent(audit), for_s=QUIET_S)
    assert [str(write) for write in audit.writes()] == []
    assert identities(await stage.proxy.worker_pods(stage.plan.name)) == before


async def settled(log: Path) -> None:
    """Wait until the operator has written nothing for a while: what came before is not the test's business."""
    for _ in range(SETTLING_TRIES_MAX):
        audit = AuditLog.from_now(log)
        with contextlib.suppress(AssertionError):
            await stays("no write by the operator", functools.partial(silent, audit), for_s=QUIET_S)
            return
    raise AssertionError(f"the operator keeps writing: {[str(write) for write in audit.writes()]}")


async def silent(audit: AuditLog) -> bool:
    return not audit.writes()


def identities(pods: list[WorkerPod]) -> list[tuple[str, str, int]]:
    return [(pod.name, pod.uid, pod.restarts) for pod in pods]


async def leads_anew(stage: Stage, old: set[str]) -> bool:
    lease = await stage.kubectl.get("lease", "eco-operator", "-n", install.NAMESPACE)
    holder = str((lease or {}).get("spec", {}).get("holderIdentity") or "")
    return bool(holder) and not any(name in holder for name in old)


async def test_a_deleted_deployment_is_back_within_ten_seconds(stage: Stage) -> None:
    name = f"{WORKER}-0"
    old = (await stage.kubectl.get("deployment", name, "-n", stage.plan.name))["metadata"]["uid"]
    begun = time.monotonic()
    await stage.kubectl.run("delete", "deployment", name, "-n", stage.plan.name, "--wait=false")

    async def back() -> bool:
        found = await stage.kubectl.get("deployment", name, "-n", stage.plan.name)
        return found is not None and found["metadata"]["uid"] != old

    await until("the deployment is back", back, within_s=REPAIRED_S_MAX)
    assert time.monotonic() - begun <= REPAIRED_S_MAX
    await wait_ready(stage)


async def test_a_deleted_ecoworker_keeps_its_claims_and_a_new_one_goes_on_with_them(stage: Stage) -> None:
    kubectl, space = stage.kubectl, stage.plan.name
    claims = await claim_uids(stage)
    await publish(stage)
    # However fast the machine is, these are not finished when the workers go. As text: a float goes out in four bytes.
    await publish(stage, {headers.NOT_BEFORE: f"{time.time() + NOT_BEFORE_S:.3f}"})
    await stage.watch.until("the shards hold the scheduled tasks", lambda: waiting(stage) == PLAN.good, within_s=60)
    # One period of the operator's probe: what it says of the journals is what it last heard.
    await stays("the shards have work", lambda: has_work(stage), for_s=PROBE_PERIOD_S + 1)
    await kubectl.delete("ecoworker", WORKER, "-n", space)
    await until("the workers are gone", lambda: no_pods(stage), within_s=90)
    assert await claim_uids(stage) == claims

    async def told() -> bool:
        return any("unfinished" in note.lower() for note in await notes(stage, "ClaimsKept"))

    await until("an event says that the claims are kept and hold unfinished work", told, within_s=30)
    assert await synced_rows(stage.services, stage.published) < len(stage.published), (
        "nothing was unfinished: proves nothing"
    )

    await kubectl.apply([manifests.eco_worker(stage.services)])
    await until("every task has its row", lambda: all_synced(stage), within_s=120)
    await stage.watch.until("the journals owe nothing", lambda: stage.watch.owed == 0, within_s=60)
    assert await claim_uids(stage) == claims
    ledger = settle(await collect(stage.services, stage.published))
    assert ledger.sound, table(ledger)


def waiting(stage: Stage) -> int:
    """Tasks that the journals hold for later."""
    return sum(sight.report.counts.waiting for sight in stage.watch.shards.values())


async def has_work(stage: Stage) -> bool:
    await stage.watch.look()
    return stage.watch.owed > 0


async def claim_uids(stage: Stage) -> dict[str, str]:
    found = await stage.kubectl.get("pvc", "-n", stage.plan.name)
    return {item["metadata"]["name"]: item["metadata"]["uid"] for item in found["items"]}


async def no_pods(stage: Stage) -> bool:
    return not await stage.proxy.worker_pods(stage.plan.name)


async def all_synced(stage: Stage) -> bool:
    return await synced_rows(stage.services, stage.published) == len(stage.published)


async def notes(stage: Stage, reason: str) -> list[str]:
    """Messages of the events of a namespace that give a reason."""
    found = await stage.kubectl.get("events", "-n", stage.plan.name, f"--field-selector=reason={reason}")
    return [item.get("message") or item.get("note") or "" for item in (found or {}).get("items", [])]


async def test_the_claims_of_a_worker_have_the_names_of_the_contract(stage: Stage) -> None:
    assert set(await claim_uids(stage)) == {claim_name(WORKER, index) for index in range(manifests.SHARDS)}


@pytest.mark.parametrize(
    ("properties", "body", "words"),
    [
        ({"message_id": "bad-json", "type": TASK_NAME}, "{not json", "json"),
        ({"message_id": "bad-name", "type": "no.such.task"}, "{}", "no.such.task"),
        ({"type": TASK_NAME}, '{"key": "uploads/x.jpg"}', "task id: missing"),
        ({"message_id": "bad-size", "type": TASK_NAME}, '{"key": "' + "x" * 2_000_000 + '"}', "at most"),
    ],
    ids=["not JSON", "unknown task", "no id", "too large"],
)
async def test_a_message_that_is_no_task_is_a_dead_letter_with_its_reason_and_work_goes_on(
    stage: Stage, properties: dict[str, Any], body: str, words: str
) -> None:
    mark = str(uuid.uuid4())
    # Not by a client library: those give a message an id of their own accord.
    async with management(stage.services) as api:
        message = {
            "properties": {**properties, "headers": {"x-test": mark}},
            "routing_key": manifests.QUEUE,
            "payload": body,
            "payload_encoding": "string",
        }
        # As a file: aiohttp warns of a large body that is given at once.
        data = io.BytesIO(json.dumps(message).encode())
        async with api.post(f"/api/exchanges/{stage.services.path}/amq.default/publish", data=data) as answer:
            assert (await answer.json())["routed"]
    reason = await dead_letter_reason(stage, mark, body.encode())
    assert words in reason.lower()
    pods = await stage.proxy.worker_pods(stage.plan.name)
    assert all(pod.ready for pod in pods), pods


async def dead_letter_reason(stage: Stage, mark: str, body: bytes) -> str:
    found: list[broker.Message] = []

    async def there() -> bool:
        letters = await broker.read(stage.services.amqp_url, "q.dlq")
        found[:] = [one for one in letters if one.headers.get("x-test") == mark or one.body == body]
        return bool(found)

    await until("the message is in q.dlq", there, within_s=30)
    return str(found[-1].headers.get("x-eco-reason", ""))


async def test_kubectl_get_walsyncs_shows_an_unreachable_database_and_its_return(stage: Stage) -> None:
    """The run's database lets nobody in for a while: the columns must say so, and drain to zero afterwards."""
    async with columns(stage.proxy, stage.plan.name, "walsyncs") as lines:
        await allow_connections(stage, allowed=False)
        await publish(stage)

        async def troubled() -> bool:
            return bool(lines.lines) and lines.values("STATE")[-1] not in ("Synced", "Syncing")

        await until("a line shows trouble", troubled, within_s=60)
        assert lines.values("READY")[-1] != "True"
        await allow_connections(stage, allowed=True)
        await until("every result is in the database", lambda: all_synced(stage), within_s=120)

        async def well() -> bool:
            return lines.values("STATE")[-1] == "Synced"

        await until("the line says Synced", well, within_s=60)


async def allow_connections(stage: Stage, *, allowed: bool) -> None:
    connection = await asyncpg.connect(stage.lab.postgres_dsn)
    try:
        await connection.execute(f'ALTER DATABASE "{stage.plan.name}" ALLOW_CONNECTIONS {str(allowed).lower()}')
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", stage.plan.name
        )
    finally:
        await connection.close()


async def test_kubectl_explain_knows_every_field_of_both_kinds(stage: Stage) -> None:
    for kind in ("ecoworker", "walsync"):
        crd = await stage.kubectl.get("crd", f"{kind}s.eco.growbin.app")
        schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        said = await stage.kubectl.run("explain", f"{kind}.spec", "--recursive")
        shown = {line.split()[0] for line in said.splitlines() if "\t<" in line}
        assert set(names(schema["properties"]["spec"])) <= shown
        assert list(undescribed(schema["properties"]["spec"], f"{kind}.spec")) == []


def names(schema: dict[str, Any]) -> list[str]:
    """Every field name below a schema."""
    below = [schema.get("items", {}), *schema.get("properties", {}).values()]
    return [*schema.get("properties", {}), *(name for one in below if one for name in names(one))]


def undescribed(schema: dict[str, Any], path: str) -> list[str]:
    """Fields without a text for `kubectl explain`."""
    fields = {**schema.get("properties", {}), **schema.get("items", {}).get("properties", {})}
    bare = [f"{path}.{name}" for name, field in fields.items() if not field.get("description")]
    return [*bare, *(deep for name, field in fields.items() for deep in undescribed(field, f"{path}.{name}"))]


@pytest.mark.parametrize("replicas", [1, 0], ids=["operator running", "operator scaled to zero"])
async def test_deleting_a_namespace_with_workers_does_not_hang(
    stage: Stage, replicas: int, full_lab: LabEnvironment
) -> None:
    kubectl = stage.kubectl
    space = f"e2e-gone-{replicas}"
    other = manifests.eco_worker(stage.services)
    other["metadata"]["namespace"] = space
    # Kubernetes looks at a namespace with pods in it again after half of this: not what is measured here.
    other["spec"]["gracePeriodSeconds"] = 5
    secrets = json.loads(json.dumps(manifests.secrets(stage.services)))
    for secret in secrets:
        secret["metadata"]["namespace"] = space
    await kubectl.delete("namespace", space, timeout_s=120)
    await kubectl.apply([manifests.namespace(space), *secrets, other])
    await kubectl.run(
        "wait", "--for=condition=Ready", f"ecoworker/{WORKER}", "-n", space, "--timeout=90s", timeout_s=100
    )
    scaled = ("-n", install.NAMESPACE, "deployment/eco-operator")
    try:
        await kubectl.run("scale", *scaled, f"--replicas={replicas}")
        await kubectl.delete("namespace", space, timeout_s=90)
        assert await kubectl.get("namespace", space) is None
    finally:
        await install.install(full_lab)
        await kubectl.run("scale", *scaled, "--replicas=1")
        await kubectl.run("rollout", "status", *scaled, "--timeout=60s", timeout_s=70)
