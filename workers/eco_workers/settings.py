"""Settings of a worker, from the environment. A bad value stops the start and names the variable and an example.

A secret or a certificate may also come from a file: `RABBITMQ_URL_FILE=/run/secrets/url` stands for `RABBITMQ_URL`.
Secrets are never part of a message, a log line or a `repr`.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from eco_crds import contract
from eco_crds.jobs import TERMINATION_LOG
from eco_workers import tls
from eco_workers.errors import SettingsError
from eco_workers.tls import SslMode, check_authority

RABBITMQ_CA: Final = "RABBITMQ_CA"
POSTGRES_CA: Final = "POSTGRES_CA"
POSTGRES_SSLMODE: Final = "POSTGRES_SSLMODE"
AUTHORITIES: Final = (RABBITMQ_CA, POSTGRES_CA)
"""No secrets, but as often given as files."""
ROLE_QUEUES: Final[Mapping[str, tuple[str, ...]]] = {"storage": ("q.batch",)}
"""What a role consumes when nothing else is said."""
KNOWN_QUEUES: Final = frozenset({"q.ai", "q.batch", "q.api", "q.sched"})
MAX_UNFINISHED_ABOVE_CONCURRENCY: Final = 256
AckPolicy = Literal["Journaled", "Completed", "Replicated"]
_KEY_PREFIX: Final = r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$"
_AMQP_SCHEMES: Final = ("amqp://", "amqps://")
_REDIS_URL: Final = re.compile(r"rediss?://([^/@\s]*@)?[A-Za-z0-9.-]+(:\d{1,5})?(/\d{0,4})?")
PORT_MAX: Final = 65_535
_DATABASE_AT: Final = re.compile(
    r"(?P<database>[A-Za-z0-9_-]{1,63})=(?P<place>(?P<host>[A-Za-z0-9.-]{1,253})(:(?P<port>\d{1,5}))?)"
)
_DNS_LABEL: Final = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"


def _env(name: str, default: Any = ..., *, example: str, **bounds: Any) -> Any:
    return Field(default, validation_alias=name, examples=[example], **bounds)


class Settings(BaseModel):
    """Everything a worker is told from outside."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    namespace: str = _env(contract.ENV_NAMESPACE, "default", example="waste", pattern=_DNS_LABEL)
    worker: str = _env(contract.ENV_WORKER, "storage", example="storage", pattern=_DNS_LABEL)
    shard: str = _env(contract.ENV_SHARD, "storage-0", example="storage-0", pattern=_DNS_LABEL)
    role: Literal["storage"] = _env(contract.ENV_ROLE, "storage", example="storage")
    queues: Annotated[tuple[str, ...], Field(max_length=4)] = _env(contract.ENV_QUEUES, (), example="q.batch,q.sched")
    task_modules: Annotated[tuple[str, ...], Field(max_length=32)] = _env("ECO_TASK_MODULES", (), example="shop.tasks")
    concurrency: int = _env(contract.ENV_CONCURRENCY, 4, example="4", ge=1, le=1000)
    max_unfinished: int = _env(contract.ENV_MAX_UNFINISHED, 0, example="260", ge=0, le=100_000)
    max_waiting: int = _env(contract.ENV_MAX_WAITING, 10_000, example="10000", ge=0, le=10_000_000)
    prefetch_messages: int = _env("ECO_PREFETCH_MESSAGES", 256, example="256", ge=1, le=10_000)
    message_bytes_max: int = _env("ECO_MESSAGE_BYTES_MAX", 1 << 20, example="1048576", ge=1024, le=1 << 27)
    grace_period_s: float = _env(contract.ENV_GRACE_PERIOD, 60.0, example="60", ge=1, le=3600)
    ack_policy: AckPolicy = _env(contract.ENV_ACK_POLICY, "Journaled", example="Replicated")
    replica_prefix: str = _env(
        "ECO_REPLICA_PREFIX",
        "eco-wal",
        example="eco-wal",
        max_length=256,
        pattern=_KEY_PREFIX,
    )
    retention_s: float = _env("ECO_RETENTION_S", 7 * 86_400.0, example="604800", ge=0)
    wal_db_path: Path = _env(
        contract.ENV_WAL_DB_PATH, Path(contract.WAL_MOUNT) / "journal.db", example="/var/lib/ecoeco/wal/journal.db"
    )
    rabbitmq_url: SecretStr = _env(contract.ENV_RABBITMQ_URL, example="amqp://user:password@rabbitmq:5672/")
    rabbitmq_ca: str = _env(RABBITMQ_CA, "", example="-----BEGIN CERTIFICATE-----…")
    """The authority that signed the broker's certificate; without it the machine's own store is trusted."""
    postgres_host: str = _env(contract.ENV_POSTGRES_HOST, "", example="postgresql")
    postgres_port: int = _env(contract.ENV_POSTGRES_PORT, 5432, example="5432", ge=1, le=65_535)
    postgres_db: str = _env(contract.ENV_POSTGRES_DB, "ecoeco_waste", example="ecoeco_waste")
    postgres_user: str = _env(contract.ENV_POSTGRES_USER, "ecoeco", example="ecoeco")
    postgres_password: SecretStr = _env(contract.ENV_POSTGRES_PASSWORD, SecretStr(""), example="a password")
    postgres_sslmode: SslMode = _env(POSTGRES_SSLMODE, "prefer", example="verify-full")
    postgres_ca: str = _env(POSTGRES_CA, "", example="-----BEGIN CERTIFICATE-----…")
    """The authority that signed the database's certificate."""
    postgres_hosts: Mapping[str, str] = _env("POSTGRES_HOSTS", {}, example="ecoeco_auth=auth:5432,ecoeco_chat=chat")
    """Databases that live elsewhere than at `POSTGRES_HOST`, for the sessions of tasks."""
    postgres_connections_max: int = _env("POSTGRES_CONNECTIONS_MAX", 4, example="4", ge=1, le=100)
    """Connections that tasks may hold to one database."""
    redis_url: SecretStr = _env("REDIS_URL", SecretStr(""), example="redis://:password@redis:6379/0")
    """For tasks that keep something there; `eco-worker check` asks it. The worker itself does not."""
    s3_endpoint_url: str = _env(contract.ENV_S3_ENDPOINT_URL, "", example="http://s3:9000")
    s3_bucket: str = _env(contract.ENV_S3_BUCKET, "ecoeco-images", example="ecoeco-images", min_length=3, max_length=63)
    aws_region: str = _env(contract.ENV_AWS_REGION, "ap-northeast-2", example="ap-northeast-2")
    aws_access_key_id: SecretStr = _env(contract.ENV_AWS_ACCESS_KEY_ID, SecretStr(""), example="AKIA…")
    aws_secret_access_key: SecretStr = _env(contract.ENV_AWS_SECRET_ACCESS_KEY, SecretStr(""), example="a secret key")
    cloudfront_distribution_id: str = _env(
        "CLOUDFRONT_DISTRIBUTION_ID", "", example="E2QWRUHAPOMQZL", pattern=r"^(E[A-Z0-9]{6,31})?$"
    )
    """For tasks that tell a CDN about an object. What the worker stores never changes, so it tells nobody."""
    cpu_processes: int = _env("ECO_CPU_PROCESSES", 1, example="2", ge=1, le=64)
    admin_host: str = _env("ECO_ADMIN_HOST", "0.0.0.0", example="127.0.0.1")  # noqa: S104  # the kubelet probes from outside
    admin_port: int = _env("ECO_ADMIN_PORT", contract.ADMIN_PORT, example="9464", ge=0, le=65_535)
    token_file: Path = _env("ECO_TOKEN_FILE", Path(contract.TOKEN_FILE), example=contract.TOKEN_FILE)
    sync_settings_dir: Path = _env(
        "ECO_SYNC_SETTINGS_DIR", Path(contract.SYNC_SETTINGS_DIR), example=contract.SYNC_SETTINGS_DIR
    )
    shard_settings_dir: Path = _env(
        "ECO_SHARD_SETTINGS_DIR", Path(contract.SHARD_SETTINGS_DIR), example=contract.SHARD_SETTINGS_DIR
    )
    termination_log: Path = _env("ECO_TERMINATION_LOG", Path(TERMINATION_LOG), example=TERMINATION_LOG)
    """Where a job leaves its report; the kubelet's file is written only where there is one."""
    log_format: Literal["json", "text"] = _env("ECO_LOG_FORMAT", "json", example="json")
    log_level: Literal["debug", "info", "warning", "error"] = _env("ECO_LOG_LEVEL", "info", example="info")

    @field_validator("queues", "task_modules", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("queues")
    @classmethod
    def _queues_exist(cls, queues: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(queues) - KNOWN_QUEUES)
        if unknown:
            raise ValueError(f"unknown queue {unknown[0]!r}; known are {', '.join(sorted(KNOWN_QUEUES))}")
        return tuple(dict.fromkeys(queues))

    @field_validator("postgres_hosts", mode="before")
    @classmethod
    def _hosts(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        found = {}
        for part in filter(None, map(str.strip, value.split(","))):
            match = _DATABASE_AT.fullmatch(part)
            if match is None or int(match["port"] or 5432) > PORT_MAX:
                raise ValueError(f"{part!r}: want database=host or database=host:port")
            found[match["database"]] = match["place"]
        return found

    @field_validator("rabbitmq_url")
    @classmethod
    def _is_amqp(cls, url: SecretStr) -> SecretStr:
        if not url.get_secret_value().startswith(_AMQP_SCHEMES):
            raise ValueError("want a URL that begins with amqp:// or amqps://")
        return url

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, url: SecretStr) -> SecretStr:
        if not _REDIS_URL.fullmatch(url.get_secret_value()):
            raise ValueError("want redis:// or rediss://, a host, and at most the number of a database behind it")
        return url

    @field_validator("rabbitmq_ca", "postgres_ca")
    @classmethod
    def _is_authority(cls, pem: str) -> str:
        return check_authority(pem)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_absent(cls, values: Any) -> Any:
        return {key: value for key, value in values.items() if value != ""} if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _fill_in(self) -> Self:
        if self.rabbitmq_ca and not self.rabbitmq_url.get_secret_value().startswith("amqps://"):
            raise ValueError(f"{RABBITMQ_CA} is set, so {contract.ENV_RABBITMQ_URL} must be amqps://")
        if self.postgres_ca and self.postgres_sslmode not in {"verify-ca", "verify-full"}:
            raise ValueError(f"{POSTGRES_CA} is set, so {POSTGRES_SSLMODE} must be verify-ca or verify-full")
        if not self.queues:
            object.__setattr__(self, "queues", ROLE_QUEUES[self.role])
        if not self.max_unfinished:
            object.__setattr__(self, "max_unfinished", self.concurrency + MAX_UNFINISHED_ABOVE_CONCURRENCY)
        if self.ack_policy == "Completed" and len(self.queues) > self.concurrency:
            raise ValueError(
                f"ECO_CONCURRENCY={self.concurrency} is less than {len(self.queues)} queues: under ECO_ACK_POLICY="
                "Completed as many tasks are taken as can run, and each queue needs one"
            )
        return self

    @property
    def amqp_url(self) -> str:
        """Where to connect to the broker, the authority included. Holds the password."""
        return tls.broker_url(self.rabbitmq_url.get_secret_value(), self.rabbitmq_ca)


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from the environment; raises SettingsError that names each bad variable."""
    values = dict(os.environ if environ is None else environ)
    for name in (*_secret_names(), *AUTHORITIES):
        _read_file(values, name)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(problem) for problem in error.errors(include_url=False))) from None


def broker_url(environ: Mapping[str, str] | None = None) -> str:
    """The broker alone, for commands that need no other setting; raises SettingsError."""
    values = dict(os.environ if environ is None else environ)
    for name in (contract.ENV_RABBITMQ_URL, RABBITMQ_CA):
        _read_file(values, name)
    url = values.get(contract.ENV_RABBITMQ_URL, "")
    if not url.startswith(_AMQP_SCHEMES):
        problem = "want a URL that begins with amqp:// or amqps://" if url else "missing"
        example = _examples()[contract.ENV_RABBITMQ_URL]
        raise SettingsError(f"{contract.ENV_RABBITMQ_URL}: {problem}. Example: {contract.ENV_RABBITMQ_URL}={example}")
    try:
        authority = values.get(RABBITMQ_CA, "")
        return tls.broker_url(url, check_authority(authority) if authority else "")
    except ValueError as error:
        raise SettingsError(f"{RABBITMQ_CA}: {error}") from None


def documented() -> list[tuple[str, str, str]]:
    """(variable, default or `required`, example) of every setting, for `--help` and the documents."""
    rows = []
    for field in Settings.model_fields.values():
        default = "required" if field.is_required() else str(field.default)
        if field.annotation is SecretStr and not field.is_required():
            default = ""
        rows.append((str(field.validation_alias), default, str((field.examples or [""])[0])))
    return rows


def _secret_names() -> list[str]:
    return [str(field.validation_alias) for field in Settings.model_fields.values() if field.annotation is SecretStr]


def _read_file(values: dict[str, str], name: str) -> None:
    """Put in a secret from the file that `<name>_FILE` names; a value that is given itself comes first."""
    path = values.get(f"{name}_FILE")
    if path and not values.get(name):
        try:
            values[name] = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{name}_FILE={path}: cannot be read: {error}") from error


def _examples() -> dict[str, str]:
    return {str(f.validation_alias): str((f.examples or [""])[0]) for f in Settings.model_fields.values()}


def _explain(problem: Any) -> str:
    name = str(problem["loc"][0]) if problem["loc"] else "settings"
    examples = _examples()
    message = problem["msg"].removeprefix("Value error, ")
    hint = f" Example: {name}={examples[name]}" if name in examples else ""
    return f"{name}: {message}.{hint}"
