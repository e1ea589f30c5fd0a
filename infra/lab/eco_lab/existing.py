"""A cluster and servers that are there already, named by the environment. The lab starts nothing then."""

import os
import shutil
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from eco_lab.environment import LabEnvironment
from eco_lab.errors import MissingError
from eco_lab.kubernetes import Kubectl
from eco_lab.manifests import servers
from eco_lab.paths import Paths
from eco_lab.programs import ladder

_NEEDED: Final = {
    "ECO_AMQP_URL": "amqp://user:password@rabbitmq.example:5672/",
    "ECO_POSTGRES_DSN": "postgresql://user:password@postgresql.example:5432/eco",
    "ECO_S3_ENDPOINT_URL": "http://s3.example:9000",
    "ECO_WORKER_IMAGE": "registry.example/eco-worker:storage",
    "ECO_OPERATOR_IMAGE": "registry.example/eco-operator:1",
}


def is_wanted() -> bool:
    """Whether the environment says to use the current context of its kubeconfig."""
    return os.environ.get("ECO_LAB_USE_CURRENT_CONTEXT") == "1"


def describe(paths: Paths) -> LabEnvironment:
    """What the environment names, checked for holes. The addresses must be good for pods and for this machine."""
    for variable, example in _NEEDED.items():
        if not os.environ.get(variable):
            hint = f"set it, for example {variable}={example}"
            raise MissingError(
                "use the current context (ECO_LAB_USE_CURRENT_CONTEXT=1)", f"{variable} is not set", hint=hint
            )
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise MissingError("use the current context", "no kubectl on PATH", hint="install kubectl")
    kubeconfig = Path(os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config").expanduser()
    ask = Kubectl(Path(kubectl), kubeconfig)
    names = tuple(item["metadata"]["name"] for item in ask.get("nodes")["items"])
    server = ask("config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}")
    dsn, amqp = os.environ["ECO_POSTGRES_DSN"], os.environ["ECO_AMQP_URL"]
    database = urlsplit(dsn)
    return LabEnvironment(
        state_dir=paths.state,
        kubeconfig=kubeconfig,
        kubectl=Path(kubectl),
        helm=ladder.find_helm(paths),
        api_server=server,
        audit_log=None,
        nodes=names,
        services_namespace=servers.NAMESPACE,
        amqp_url=amqp,
        amqp_url_in_cluster=amqp,
        postgres_dsn=dsn,
        postgres_dsn_in_cluster=dsn,
        postgres_host_in_cluster=database.hostname or "",
        postgres_port=database.port or 5432,
        postgres_database=database.path.lstrip("/"),
        postgres_user=unquote(database.username or ""),
        postgres_password=unquote(database.password or ""),
        s3_endpoint_url=os.environ["ECO_S3_ENDPOINT_URL"],
        s3_endpoint_url_in_cluster=os.environ["ECO_S3_ENDPOINT_URL"],
        s3_bucket=os.environ.get("ECO_S3_BUCKET", servers.BUCKET),
        s3_region=os.environ.get("AWS_DEFAULT_REGION", "us-east-1"),
        s3_access_key=os.environ.get("AWS_ACCESS_KEY_ID", ""),
        s3_secret_key=os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
        worker_image=os.environ["ECO_WORKER_IMAGE"],
        operator_image=os.environ["ECO_OPERATOR_IMAGE"],
        managed=False,
    )
