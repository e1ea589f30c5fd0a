"""What the lab offers to other code: addresses, credentials and files of a lab that is up, and the way to get one."""

import dataclasses
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from eco_lab import paths as lab_paths
from eco_lab.errors import LabError


@dataclass(frozen=True, slots=True)
class LabEnvironment:
    """Everything a test, the demo or a person needs to use the lab. Written by `up`, read by `load`.

    After `up(only_control_plane=True)` the fields of services and images are empty strings.
    """

    state_dir: Path
    """The lab's directory; logs are in `log` below it."""
    kubeconfig: Path
    """An administrator's kubeconfig."""
    kubectl: Path
    """A kubectl of the cluster's version."""
    helm: Path | None
    """Helm, when asked for by `up(with_programs=("helm",))` or found on PATH."""
    api_server: str
    """URL of the API server, reachable from this machine."""
    audit_log: Path | None
    """One JSON line (audit.k8s.io/v1, level Metadata) a write, and a read by the operator.

    None on a cluster that the lab did not start.
    """
    nodes: tuple[str, ...]
    """Names of the nodes; empty without any."""
    services_namespace: str
    """Namespace of RabbitMQ, PostgreSQL and the S3 stand-in."""
    amqp_url: str = dataclasses.field(repr=False)
    """RabbitMQ as this machine reaches it, user and password in it."""
    amqp_url_in_cluster: str = dataclasses.field(repr=False)
    """RabbitMQ as pods reach it, by name."""
    postgres_dsn: str = dataclasses.field(repr=False)
    """PostgreSQL as this machine reaches it, user and password in it."""
    postgres_dsn_in_cluster: str = dataclasses.field(repr=False)
    """PostgreSQL as pods reach it, by name."""
    postgres_host_in_cluster: str
    postgres_port: int
    postgres_database: str
    postgres_user: str
    postgres_password: str = dataclasses.field(repr=False)
    s3_endpoint_url: str = ""
    """The S3 stand-in as this machine reaches it."""
    s3_endpoint_url_in_cluster: str = ""
    """The S3 stand-in as pods reach it, by name."""
    s3_bucket: str = ""
    """A bucket that exists."""
    s3_region: str = "us-east-1"
    s3_access_key: str = ""
    s3_secret_key: str = dataclasses.field(default="", repr=False)
    worker_image: str = ""
    """Image of the worker (role storage), present on every node: use `imagePullPolicy: IfNotPresent` or `Never`."""
    operator_image: str = ""
    """Image of the operator, present on every node."""
    managed: bool = True
    """Whether the lab started this cluster itself; drills need that."""

    def as_variables(self) -> dict[str, str]:
        """The environment variables that tests and tools of this tree read."""
        named = {
            "KUBECONFIG": str(self.kubeconfig),
            "ECO_KUBECTL": str(self.kubectl),
            "ECO_HELM": str(self.helm or ""),
            "ECO_AMQP_URL": self.amqp_url,
            "ECO_POSTGRES_DSN": self.postgres_dsn,
            "ECO_S3_ENDPOINT_URL": self.s3_endpoint_url,
            "ECO_S3_BUCKET": self.s3_bucket,
            "AWS_ACCESS_KEY_ID": self.s3_access_key,
            "AWS_SECRET_ACCESS_KEY": self.s3_secret_key,
            "AWS_DEFAULT_REGION": self.s3_region if self.s3_endpoint_url else "",
            "ECO_WORKER_IMAGE": self.worker_image,
            "ECO_OPERATOR_IMAGE": self.operator_image,
        }
        return {name: value for name, value in named.items() if value}

    def as_shell(self) -> str:
        """The same as `export` lines for a shell."""
        return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in self.as_variables().items())

    def to_json(self) -> str:
        """Every field, passwords too, as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2, default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote; a file of another version of this class is refused."""
        values = json.loads(text)
        known = {field.name for field in dataclasses.fields(cls)}
        if set(values) != known:
            differing = ", ".join(sorted(set(values) ^ known))
            raise LabError("read the lab's environment", f"written by another version: {differing}", hint="eco-lab up")
        for name in ("state_dir", "kubeconfig", "kubectl", "helm", "audit_log"):
            values[name] = Path(values[name]) if values[name] is not None else None
        values["nodes"] = tuple(values["nodes"])
        return cls(**values)


def load() -> LabEnvironment | None:
    """The lab that is up, or None. Reads one file: it starts nothing and asks nobody."""
    file = lab_paths.find().environment
    try:
        return LabEnvironment.from_json(file.read_text())
    except FileNotFoundError:
        return None
    except (LabError, ValueError, TypeError):
        # Left by an older checkout: not this version's lab. `up` writes it anew.
        return None


def up(*, nodes: int = 1, only_control_plane: bool = False, with_programs: tuple[str, ...] = ()) -> LabEnvironment:
    """Bring the lab up, or up to date, and say where everything is. Safe to call on a lab that runs.

    Raises LabError when a part is missing or does not become ready; the message names it and what to do.
    """
    from eco_lab import lifecycle  # noqa: PLC0415 - lifecycle writes this module's class, so it imports it

    return lifecycle.up(nodes=nodes, only_control_plane=only_control_plane, with_programs=with_programs)
