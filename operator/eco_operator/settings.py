"""The operator's own settings, read from the environment once at the start.

Every variable begins with `ECO_OPERATOR_`. A bad value stops the start and names the variable.
"""

import os
import socket
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from eco_operator.errors import ConfigurationError

ENV_PREFIX = "ECO_OPERATOR_"


class Settings(BaseSettings):
    """Everything about the operator that may differ from one installation to the next."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="ignore", use_attribute_docstrings=True, env_ignore_empty=True
    )

    namespaces: Annotated[tuple[str, ...], NoDecode] = ()
    """Namespaces to serve, comma separated. Empty: the whole cluster."""
    default_worker_image: str = ""
    """Image of workers whose spec names none. Empty: such an EcoWorker is told to name one."""

    leader_election: bool = True
    """Off only where nothing else can run beside this process, as in a test."""
    lease_name: str = "eco-operator"
    """Name of the Lease that says who leads."""
    lease_namespace: str = "eco-system"
    """Namespace of that Lease; the operator's own."""
    identity: str = Field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}", min_length=1)
    """Who this process is in the Lease; in a pod, the pod's name. Two of one name would both lead."""
    lease_duration_s: float = Field(15, gt=0, le=300)
    """How long others must wait after the last renewal they saw."""
    renew_deadline_s: float = Field(10, gt=0, le=300)
    """How long renewing may fail before this process gives up leading."""
    retry_period_s: float = Field(2, gt=0, le=60)
    """How often the Lease is renewed, and how often a standby looks at it."""

    http_host: str = "0.0.0.0"  # noqa: S104  # inside a pod; the kubelet and Prometheus come from outside
    http_port: int = Field(8080, ge=0, le=65_535)
    """Port of /livez, /readyz and /metrics; 0 takes any free one."""

    probe_interval_s: float = Field(5, ge=0.1, le=60)
    """How often every worker is asked for the report of its journal."""
    probe_timeout_s: float = Field(2, gt=0, le=30)
    """How long one worker may take to answer."""
    probe_concurrency: int = Field(64, ge=1, le=1024)
    """How many workers are asked at the same time."""

    reconcile_concurrency: int = Field(32, ge=1, le=256)
    """How many objects are set right at the same time."""
    resync_interval_s: float = Field(300, ge=1, le=86_400)
    """How often everything is listed anew and looked at again, give or take a tenth."""
    status_interval_s: float = Field(30, ge=0, le=600)
    """How long a status in which only numbers changed waits to be written."""
    backoff_s_min: float = Field(1, gt=0, le=60)
    backoff_s_max: float = Field(300, gt=0, le=3600)

    argocd_namespace: str = ""
    """Namespace of Argo CD's Applications, for EcoWorkers that it is to deliver. Empty: there is no Argo CD."""
    argocd_repo_url: str = ""
    """Repository of the chart of workers: of Git with `argocd_path`, or of charts with `argocd_chart`."""
    argocd_path: str = "charts/eco-worker"
    argocd_chart: str = ""
    argocd_revision: str = ""
    """Version of the chart or revision of Git. A shard takes a new one up when its spec changes."""
    argocd_project: str = "default"
    argocd_destination: str = "https://kubernetes.default.svc"
    """The cluster that the workers are in, as Argo CD knows it."""

    service_monitors: bool = False
    """Make a ServiceMonitor for each EcoWorker, once the Prometheus operator's kind is there."""
    service_monitor_labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the ServiceMonitors, by which a Prometheus selects them; as JSON."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"

    @field_validator("namespaces", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @model_validator(mode="after")
    def _lease_times_fit(self) -> Self:
        if not self.retry_period_s < self.renew_deadline_s < self.lease_duration_s:
            raise ValueError("retry_period_s < renew_deadline_s < lease_duration_s does not hold")
        return self

    @model_validator(mode="after")
    def _argocd_is_whole(self) -> Self:
        if self.argocd_namespace and not (self.argocd_repo_url and self.argocd_revision):
            raise ValueError("argocd_namespace needs argocd_repo_url and argocd_revision beside it")
        return self

    @property
    def is_cluster_wide(self) -> bool:
        """Whether every namespace is served."""
        return not self.namespaces


def load() -> Settings:
    """Read the environment; raises `ConfigurationError` naming each variable that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        lines = [
            f"{ENV_PREFIX}{'_'.join(str(part) for part in problem['loc']).upper() or '*'}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        ]
        raise ConfigurationError("; ".join(lines)) from None
