"""The lab's cluster: volumes of both kinds, processes killed from outside, servers that keep what they promised."""

import asyncio
import json
import signal
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import aio_pika
import asyncpg
import pytest
from aiormq.abc import FieldTable

from eco_lab import drills
from eco_lab.environment import LabEnvironment
from eco_lab.errors import CommandError
from eco_lab.kubernetes import Kubectl
from eco_lab.processes import wait_until
from tests.support.parts import require

T = TypeVar("T")
pytestmark = [pytest.mark.cluster, pytest.mark.root, pytest.mark.slow]


@pytest.fixture(scope="module")
def kubectl(lab: LabEnvironment) -> Kubectl:
    return Kubectl(lab.kubectl, lab.kubeconfig)


@pytest.fixture(scope="module")
def namespace(kubectl: Kubectl) -> Iterator[str]:
    name = f"lab-test-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, timeout_s=120)


@pytest.fixture
def pod(kubectl: Kubectl, namespace: str, lab: LabEnvironment) -> Callable[..., str]:
    """Starts a pod that waits, with a volume of the class asked for."""

    def start(storage_class: str, size: str) -> str:
        name = f"{storage_class}-{uuid.uuid4().hex[:8]}"
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "storageClassName": storage_class,
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": size}},
            },
        }
        kubectl.apply(claim, waiting_pod(name, namespace, lab.worker_image))
        kubectl("-n", namespace, "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s", timeout_s=70)
        return name

    return start


def waiting_pod(name: str, namespace: str, image: str) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["python3", "-c", "import signal; signal.pause()"],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": name}}
    spec = {"containers": [container], "volumes": [volume], "terminationGracePeriodSeconds": 0}
    about = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": spec}


def write(kubectl: Kubectl, namespace: str, pod: str, name: str, mebibytes: int) -> None:
    code = (
        f"import os; f = open('/data/{name}', 'wb'); [f.write(bytes(1 << 20)) for _ in range({mebibytes})]; os.fsync(f)"
    )
    kubectl("-n", namespace, "exec", pod, "--", "python3", "-c", code)


def grow(kubectl: Kubectl, namespace: str, claim: str, size: str) -> None:
    wanted = json.dumps({"spec": {"resources": {"requests": {"storage": size}}}})
    kubectl("-n", namespace, "patch", "pvc", claim, "--type=merge", "-p", wanted)
    path = "{.status.capacity.storage}"
    kubectl("-n", namespace, "wait", f"--for=jsonpath={path}={size}", f"pvc/{claim}", "--timeout=30s")


def test_a_volume_of_true_size_is_full_when_it_is_full_and_grows_in_use(
    kubectl: Kubectl, namespace: str, pod: Callable[..., str]
) -> None:
    name = pod("disk", "64Mi")
    with pytest.raises(CommandError, match="No space left on device"):
        write(kubectl, namespace, name, "large", 100)
    grow(kubectl, namespace, name, "256Mi")
    write(kubectl, namespace, name, "large", 100)


def test_a_directory_grows_by_its_word_alone(kubectl: Kubectl, namespace: str, pod: Callable[..., str]) -> None:
    grow(kubectl, namespace, pod("directory", "64Mi"), "128Mi")


def test_volumes_go_with_their_claims(
    kubectl: Kubectl, namespace: str, pod: Callable[..., str], lab: LabEnvironment
) -> None:
    name = pod("shared-disk", "64Mi")
    volume = kubectl.get("-n", namespace, "pvc", name)["spec"]["volumeName"]
    paths = [path for path in (lab.state_dir / "data" / "volumes").iterdir() if path.name.startswith(volume)]
    assert len(paths) == 2
    kubectl("-n", namespace, "delete", f"pod/{name}", f"pvc/{name}")
    wait_until("removal of the volume", lambda: not any(path.exists() for path in paths), timeout_s=30)


def test_a_killed_process_starts_again_in_its_pod(
    kubectl: Kubectl, namespace: str, pod: Callable[..., str], lab: LabEnvironment
) -> None:
    require(lab.managed, "a cluster that the lab started itself")
    name = pod("directory", "64Mi")
    before = kubectl.get("-n", namespace, "pod", name)
    drills.signal_process(namespace, name, signal.SIGKILL)

    def restarts() -> int:
        return int(kubectl.get("-n", namespace, "pod", name)["status"]["containerStatuses"][0]["restartCount"])

    wait_until("restart of the container", lambda: restarts() == 1, timeout_s=30, poll_s=0.5)
    after = kubectl.get("-n", namespace, "pod", name)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    ended = after["status"]["containerStatuses"][0]["lastState"]["terminated"]
    assert ended["exitCode"] == 128 + signal.SIGKILL


async def test_what_rabbitmq_confirmed_outlives_its_pod(lab: LabEnvironment) -> None:
    """Deleted at once, as a power cut would; the message was confirmed by a quorum queue."""
    require(lab.managed, "a cluster that the lab started itself")
    name = f"lab-test-{uuid.uuid4().hex}"
    quorum: FieldTable = {"x-queue-type": "quorum"}
    async with await aio_pika.connect(lab.amqp_url) as connection:
        channel = await connection.channel(publisher_confirms=True)
        await channel.declare_queue(name, durable=True, arguments=quorum)
        message = aio_pika.Message(b"kept", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, routing_key=name)
    await asyncio.to_thread(drills.restart, "rabbitmq", grace_s=0)
    async with await connected(lambda: aio_pika.connect(lab.amqp_url)) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(name, durable=True, arguments=quorum)
        found = await queue.get(timeout=30)
        assert found is not None
        assert found.body == b"kept"
        await found.ack()
        await queue.delete(if_unused=False, if_empty=False)


async def test_what_postgresql_committed_outlives_its_pod(lab: LabEnvironment) -> None:
    require(lab.managed, "a cluster that the lab started itself")
    table = f"lab_test_{uuid.uuid4().hex}"
    before = await asyncpg.connect(lab.postgres_dsn)
    await before.execute(f"CREATE TABLE {table} AS SELECT 'kept' AS word")
    await before.close()
    await asyncio.to_thread(drills.restart, "postgresql", grace_s=0)
    after = await connected(lambda: asyncpg.connect(lab.postgres_dsn))
    assert await after.fetchval(f"SELECT word FROM {table}") == "kept"  # noqa: S608 - the name was made above
    await after.execute(f"DROP TABLE {table}")
    await after.close()


async def connected(connect: Callable[[], Awaitable[T]], *, within_s: float = 15) -> T:
    """Connect as soon as the Service leads to the successor."""
    async with asyncio.timeout(within_s):
        while True:
            try:
                return await connect()
            except OSError:
                await asyncio.sleep(0.2)


def test_pods_reach_servers_by_name_and_nothing_outside(kubectl: Kubectl, lab: LabEnvironment) -> None:
    code = f"""
import socket, urllib.request
assert urllib.request.urlopen('{lab.s3_endpoint_url_in_cluster}', timeout=5).status == 200
assert not [line for line in open('/proc/net/route') if line.split()[1] == '00000000'], 'a default route'
try:
    socket.getaddrinfo('example.com', 80)
except socket.gaierror:
    pass
else:
    raise SystemExit('a name outside of the cluster was found')
"""
    s3 = kubectl.get("-n", lab.services_namespace, "pod", "-l", "app=s3")["items"][0]["metadata"]["name"]
    kubectl("-n", lab.services_namespace, "exec", s3, "--", "python3", "-c", code)


def test_the_environment_is_whole(lab: LabEnvironment, kubectl: Kubectl) -> None:
    assert {"ECO_AMQP_URL", "ECO_POSTGRES_DSN", "ECO_S3_ENDPOINT_URL", "KUBECONFIG"} <= set(lab.as_variables())
    assert {node["metadata"]["name"] for node in kubectl.get("nodes")["items"]} == set(lab.nodes)
    assert (lab.state_dir / "environment.json").stat().st_mode & 0o077 == 0
