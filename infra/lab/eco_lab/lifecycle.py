"""`up`, `down` and `status`: the order in which the parts come and go."""

import contextlib
import json
import secrets
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Final

from eco_lab import argocd, existing, network, preflight, prometheus
from eco_lab import paths as lab_paths
from eco_lab.control_plane import SERVER, ControlPlane
from eco_lab.environment import LabEnvironment, load
from eco_lab.errors import LabError
from eco_lab.images import catalogue
from eco_lab.images.build import Builder
from eco_lab.kubernetes import Kubectl
from eco_lab.locks import held
from eco_lab.manifests import cluster, servers
from eco_lab.mounts import unmount_all_below
from eco_lab.nodes import Node
from eco_lab.paths import Paths
from eco_lab.processes import wait_until
from eco_lab.programs import ladder
from eco_lab.progress import say, step

_SERVERS_S: Final = 180


def up(*, nodes: int, only_control_plane: bool, with_programs: tuple[str, ...]) -> LabEnvironment:
    """See `eco_lab.environment.up`."""
    if not 1 <= nodes <= network.NODES_MAX:
        raise LabError(f"start {nodes} nodes", f"the lab has 1 to {network.NODES_MAX}")
    paths = lab_paths.find()
    _refuse_what_is_no_labs(paths.state)
    if existing.is_wanted():
        environment = existing.describe(paths)
        _publish(paths, environment)
        return environment
    also = argocd.PACKAGES if "argocd" in with_programs else {}
    preflight.check(paths, nodes=0 if only_control_plane else nodes, also=also)
    with held(paths.state), contextlib.ExitStack() as cache:
        cache.enter_context(held(paths.cache))
        wanted = 0 if only_control_plane else nodes
        return _Starting(paths, with_programs, cache).run(max(wanted, len(_nodes_so_far())))


def _refuse_what_is_no_labs(state: Path) -> None:
    """`down --wipe` deletes all that is in the state directory, so nothing of anybody else's may be in it."""
    marks = ("lock", "environment.json")
    if state.exists() and any(state.iterdir()) and not any((state / mark).exists() for mark in marks):
        hint = "set ECO_LAB_STATE to a new directory, or to one that a lab has made"
        raise LabError(f"keep the lab's state in {state}", "it holds files that are no lab's", hint=hint)


def _nodes_so_far() -> tuple[str, ...]:
    """Nodes of the lab as it is: a start adds to it and takes nothing away."""
    previous = load()
    return previous.nodes if previous is not None and previous.managed else ()


class _Starting:
    """One run of `up`. Images are built beside the programs and the start of the cluster: much of it is waiting."""

    def __init__(self, paths: Paths, with_programs: tuple[str, ...], cache: contextlib.ExitStack) -> None:
        self._paths = paths
        self._with_programs = with_programs
        self._cache = cache
        """Holds the cache's lock; closed as soon as nothing is made any more."""

    def run(self, count: int) -> LabEnvironment:
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="images") as side:
            building = side.submit(self._images) if count else None
            programs = ladder.cluster(self._paths)
            if building is not None and building.done():
                building.result()  # An error there is told now, not after the rest was built as well.
            wants_helm = bool({"helm", "argocd"} & set(self._with_programs))
            helm = ladder.helm(self._paths) if wants_helm else ladder.find_helm(self._paths)
            if "helm-unittest" in self._with_programs:
                ladder.helm_unittest(self._paths)
            argo_cd = ladder.argocd(self._paths) if "argocd" in self._with_programs else None
            monitoring = ladder.prometheus(self._paths) if "prometheus" in self._with_programs else None
            control_plane = ControlPlane(self._paths, programs)
            control_plane.start()
            kubectl = Kubectl(programs / "kubectl", self._paths.kubeconfig)
            nodes = [Node(name, self._paths, programs) for name in network.node_names(count)]
            images = {}
            if building is not None:
                self._start_nodes(control_plane, nodes, programs)
                with step("cluster DNS, storage classes"):
                    kubectl.apply(*cluster.storage_classes(), *cluster.dns(min(count, 2)))
                built = building.result()
                self._cache.close()
                images = self._import(nodes, built)
                self._start_servers(kubectl, images)
            if argo_cd is not None and helm is not None:
                argocd.ArgoCd(self._paths, argo_cd, kubectl).start(helm)
            if monitoring is not None and nodes:
                prometheus.Prometheus(self._paths, monitoring, kubectl, nodes).start()
        environment = _describe(self._paths, programs, helm, tuple(node.name for node in nodes), images)
        _publish(self._paths, environment)
        return environment

    def _start_nodes(self, control_plane: ControlPlane, nodes: list[Node], programs: Path) -> None:
        base = catalogue.of_the_cluster(self._paths, programs)
        with step(f"nodes {', '.join(node.name for node in nodes)}"):
            for node in nodes:
                node.start_runtime()
                node.import_images(base)
                node.start_kubelet(control_plane)
            control_plane.start_proxy(control_plane.machine, nodes[0].name)
            client = control_plane.client()
            for node in nodes:
                node.wait_ready(client)

    def _images(self) -> dict[str, tuple[str, Path]]:
        builder = Builder(self._paths)
        return {**catalogue.of_the_servers(self._paths, builder), **catalogue.of_the_tree(builder)}

    def _import(self, nodes: list[Node], built: dict[str, tuple[str, Path]]) -> dict[str, str]:
        with step("images into nodes"):
            for node in nodes:
                for name in node.import_images([file for _, file in built.values()]):
                    say(f"  {node.name} took in {name}")
        return {name: image for name, (image, _) in built.items()}

    def _start_servers(self, kubectl: Kubectl, images: dict[str, str]) -> None:
        with step("RabbitMQ, PostgreSQL, S3 stand-in"):
            kubectl.apply(*servers.secrets(credentials(self._paths)))
            kubectl.apply(*servers.servers(images))
            names = ("statefulset/rabbitmq", "statefulset/postgresql", "deployment/s3")
            kubectl.wait_rollout("kube-system", "deployment/coredns", timeout_s=_SERVERS_S)
            kubectl.wait_rollout(servers.NAMESPACE, *names, timeout_s=_SERVERS_S)
            # After a restart the API may still hold their readiness of before: ask them.
            for name, address in servers.ADDRESSES.items():
                port = next(iter(servers.PORTS[name].values()))
                wait_until(f"{name} at {address}:{port}", partial(_accepts, address, port), timeout_s=_SERVERS_S)


def _accepts(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


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
    with held(paths.state), held(paths.cache):
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
    _refuse_what_is_no_labs(paths.state)
    with held(paths.state):
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
