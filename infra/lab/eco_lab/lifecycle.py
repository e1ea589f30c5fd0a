"""`up`, `down` and `status`: the order in which the parts come and go."""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import IO, Final

from eco_lab import existing, network, preflight
from eco_lab import paths as lab_paths
from eco_lab.control_plane import SERVER, ControlPlane
from eco_lab.environment import LabEnvironment
from eco_lab.errors import BusyError, LabError
from eco_lab.images import catalogue
from eco_lab.images.build import Builder
from eco_lab.kubernetes import Kubectl
from eco_lab.manifests import cluster, servers
from eco_lab.mounts import unmount_all_below
from eco_lab.nodes import Node
from eco_lab.paths import Paths
from eco_lab.programs import ladder
from eco_lab.progress import say, step

_SERVERS_S: Final = 180
_LOCK_WAIT_S: Final = 300.0


@contextlib.contextmanager
def locked(paths: Paths) -> Iterator[None]:
    """Hold the lab for one change at a time; wait a bounded time for another change to end.

    The lock goes with the process, however that ends.
    """
    paths.state.mkdir(parents=True, exist_ok=True)
    file = paths.state / "lock"
    # Not inherited: a daemon of the lab must not hold it on.
    with os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+") as handle:
        _take(handle)
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def _take(handle: IO[str]) -> None:
    deadline = time.monotonic() + _LOCK_WAIT_S
    announced = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            if time.monotonic() > deadline:
                hint = "wait for it to end, or end it"
                raise BusyError("change the lab", f"process {holder} is still at it", hint=hint) from error
            if not announced:
                say(f"waiting for process {holder}, which changes the lab right now")
                announced = True
            time.sleep(0.2)
        else:
            handle.seek(0)
            return


def up(*, nodes: int, only_control_plane: bool, with_programs: tuple[str, ...]) -> LabEnvironment:
    """See `eco_lab.environment.up`."""
    if not 1 <= nodes <= network.NODES_MAX:
        raise LabError(f"start {nodes} nodes", f"the lab has 1 to {network.NODES_MAX}")
    paths = lab_paths.find()
    if existing.is_wanted():
        environment = existing.describe(paths)
        _publish(paths, environment)
        return environment
    preflight.check(paths, nodes=0 if only_control_plane else nodes)
    with locked(paths):
        programs = ladder.cluster(paths)
        helm = ladder.helm(paths) if "helm" in with_programs else ladder.find_helm(paths)
        return _Starting(paths, programs, helm).run(0 if only_control_plane else nodes)


class _Starting:
    """One run of `up`. Control plane, nodes' image stores and image builds go side by side."""

    def __init__(self, paths: Paths, programs: Path, helm: Path | None) -> None:
        self._paths = paths
        self._programs = programs
        self._helm = helm
        self._control_plane = ControlPlane(paths, programs)
        self._kubectl = Kubectl(programs / "kubectl", paths.kubeconfig)

    def run(self, count: int) -> LabEnvironment:
        nodes = [Node(name, self._paths, self._programs) for name in network.node_names(count)]
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="images") as side:
            building = side.submit(self._images) if nodes else None
            self._control_plane.start()
            if building is None:
                return self._finish((), {})
            base = catalogue.of_the_cluster(self._paths, self._programs)
            with step(f"node{'s' if count > 1 else ''} {', '.join(node.name for node in nodes)}"):
                for node in nodes:
                    node.start_runtime()
                    node.import_images(base)
                    node.start_kubelet(self._control_plane)
                self._control_plane.start_proxy(self._control_plane.machine, nodes[0].name)
                client = self._control_plane.client()
                for node in nodes:
                    node.wait_ready(client)
            with step("cluster DNS, storage classes"):
                self._kubectl.apply(*cluster.storage_classes(), *cluster.dns(min(count, 2)))
            images = self._import(nodes, building)
            self._start_servers(images)
        return self._finish(tuple(node.name for node in nodes), images)

    def _images(self) -> dict[str, tuple[str, Path]]:
        builder = Builder(self._paths)
        return {**catalogue.of_the_servers(self._paths, builder), **catalogue.of_the_tree(builder)}

    def _import(self, nodes: list[Node], building: "Future[dict[str, tuple[str, Path]]]") -> dict[str, str]:
        images = building.result()
        with step("images into nodes"):
            for node in nodes:
                for name in node.import_images([file for _, file in images.values()]):
                    say(f"  {node.name} took in {name}")
        return {name: image for name, (image, _) in images.items()}

    def _start_servers(self, images: dict[str, str]) -> None:
        with step("RabbitMQ, PostgreSQL, S3 stand-in"):
            self._kubectl.apply(*servers.secrets(credentials(self._paths)))
            self._kubectl.apply(*servers.servers(images))
            names = ("statefulset/rabbitmq", "statefulset/postgresql", "deployment/s3")
            self._kubectl.wait_rollout("kube-system", "deployment/coredns", timeout_s=_SERVERS_S)
            self._kubectl.wait_rollout(servers.NAMESPACE, *names, timeout_s=_SERVERS_S)

    def _finish(self, nodes: tuple[str, ...], images: dict[str, str]) -> LabEnvironment:
        environment = _describe(self._paths, self._programs, self._helm, nodes, images)
        _publish(self._paths, environment)
        return environment


def _describe(
    paths: Paths, programs: Path, helm: Path | None, nodes: tuple[str, ...], images: dict[str, str]
) -> LabEnvironment:
    made = credentials(paths)
    rabbitmq, postgresql, s3 = (servers.ADDRESSES[name] for name in ("rabbitmq", "postgresql", "s3"))
    broker = f"amqp://{servers.USER}:{made.rabbitmq}@"
    database = f"postgresql://{servers.USER}:{made.postgresql}@"
    domain = f"{servers.NAMESPACE}.svc.cluster.local"
    here = bool(images)
    return LabEnvironment(
        state_dir=paths.state,
        kubeconfig=paths.kubeconfig,
        kubectl=programs / "kubectl",
        helm=helm,
        api_server=SERVER,
        audit_log=paths.audit_log,
        nodes=nodes,
        services_namespace=servers.NAMESPACE,
        amqp_url=f"{broker}{rabbitmq}:5672/" if here else "",
        amqp_url_in_cluster=f"{broker}rabbitmq.{domain}:5672/" if here else "",
        postgres_dsn=f"{database}{postgresql}:5432/{servers.DATABASE}" if here else "",
        postgres_dsn_in_cluster=f"{database}postgresql.{domain}:5432/{servers.DATABASE}" if here else "",
        postgres_host_in_cluster=f"postgresql.{domain}" if here else "",
        postgres_port=5432,
        postgres_database=servers.DATABASE,
        postgres_user=servers.USER,
        postgres_password=made.postgresql,
        s3_endpoint_url=f"http://{s3}:9000" if here else "",
        s3_endpoint_url_in_cluster=f"http://s3.{domain}:9000" if here else "",
        s3_bucket=servers.BUCKET,
        s3_access_key="eco-lab",
        s3_secret_key=made.s3,
        worker_image=images.get("worker", ""),
        operator_image=images.get("operator", ""),
    )


def _publish(paths: Paths, environment: LabEnvironment) -> None:
    paths.state.mkdir(parents=True, exist_ok=True)
    scratch = paths.environment.with_suffix(".new")
    scratch.touch(mode=0o600)
    scratch.write_text(environment.to_json())
    scratch.replace(paths.environment)


def credentials(paths: Paths) -> servers.Credentials:
    """Passwords of the lab's servers, made at first use and kept as long as their data."""
    file = paths.state / "credentials.json"
    if not file.exists():
        made = servers.Credentials(*(secrets.token_urlsafe(18) for _ in range(3)))
        scratch = file.with_suffix(".new")
        scratch.touch(mode=0o600)
        scratch.write_text(json.dumps(asdict(made)))
        scratch.replace(file)
    return servers.Credentials(**json.loads(file.read_text()))


def update_images() -> LabEnvironment:
    """Build what changed of this tree and import it into the nodes that run; the servers stay as they are."""
    paths = lab_paths.find()
    with locked(paths):
        previous = _running(paths)
        programs = ladder.cluster(paths)
        built = catalogue.of_the_tree(Builder(paths))
        for name in previous.nodes:
            Node(name, paths, programs).import_images([file for _, file in built.values()])
        images = {name: image for name, (image, _) in built.items()}
        environment = _describe(paths, programs, ladder.find_helm(paths), previous.nodes, images)
        _publish(paths, environment)
    return environment


def _running(paths: Paths) -> LabEnvironment:
    try:
        return LabEnvironment.from_json(paths.environment.read_text())
    except FileNotFoundError as error:
        raise LabError("update the lab's images", "the lab is not up", hint="eco-lab up") from error


def down(*, wipe: bool) -> None:
    """Stop everything that the lab started; with `wipe` delete what it kept as well. The cache stays."""
    paths = lab_paths.find()
    if not paths.state.exists():
        say("no lab here")
        return
    with locked(paths):
        paths.environment.unlink(missing_ok=True)
        for node in network.node_names(network.NODES_MAX):
            with step(f"node {node} off") if (paths.run / node).exists() else contextlib.nullcontext():
                Node(node, paths, paths.bin).machine.cut()
        with step("control plane off"):
            ControlPlane(paths, paths.bin).stop()
            network.lower_hub()
            unmount_all_below(paths.volumes)
            network.remove_namespace_mount()
        if wipe:
            with step("state deleted"):
                for path in paths.state.iterdir():
                    if path.name != "lock":
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
