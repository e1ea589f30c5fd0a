"""The API server's audit log as a witness: who wrote what, whatever the writer says of itself."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

OPERATOR: Final = "system:serviceaccount:eco-system:eco-operator"
WRITING: Final = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True, slots=True)
class Write:
    """One writing request that the API server answered."""

    user: str
    verb: str
    resource: str
    """With its subresource, as in `ecoworkers/status`."""
    namespace: str
    name: str
    when: str
    code: int

    def __str__(self) -> str:
        return f"{self.when} {self.verb} {self.resource} {self.namespace}/{self.name} ({self.code})"


@dataclass(frozen=True, slots=True)
class AuditLog:
    """Reads the log from a place in it."""

    path: Path
    offset_bytes: int

    @classmethod
    def from_now(cls, path: Path) -> "AuditLog":
        """A log whose writes are those after this call. Rotated logs are not followed: keep the wait short."""
        return cls(path, path.stat().st_size)

    def writes(self, user: str | None = OPERATOR) -> list[Write]:
        """Writes since then, by one user or by all; renewing the operator's own Lease is no write here."""
        return [
            write
            for write in self._all()
            if (user is None or write.user == user) and write.verb in WRITING and write.resource != "leases"
        ]

    def _all(self) -> Iterator[Write]:
        with self.path.open("rb") as log:
            log.seek(self.offset_bytes)
            for line in log:
                if not line.endswith(b"\n"):
                    return
                event = json.loads(line)
                if event.get("stage") not in (None, "ResponseComplete"):
                    continue
                target = event.get("objectRef") or {}
                resource = "/".join(filter(None, (target.get("resource", ""), target.get("subresource", ""))))
                yield Write(
                    event["user"]["username"],
                    event["verb"],
                    resource,
                    target.get("namespace", ""),
                    target.get("name", ""),
                    event.get("stageTimestamp", ""),
                    (event.get("responseStatus") or {}).get("code", 0),
                )
