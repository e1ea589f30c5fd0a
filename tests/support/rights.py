"""What the operator asks of the API server, from the server's audit log, beside what the chart's roles allow.

The log is the witness, so a request that the operator makes by a library counts like its own. Requests are told apart
by the program that says it makes them: the operator's own client and Kopf's.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from eco_crds import contract

VARIABLE: Final = "ECO_TEST_CALLS"
"""Names a file; every bare API server adds to it what the operator asked of it."""
POLICY: Final = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}
_PROGRAM: Final = re.compile(rf"(?:{contract.FIELD_MANAGER}|kopf/.*)$")
# Whoever may log in may look at these; no role of ours has to say so (`system:discovery`).
_DISCOVERY: Final = re.compile(r"/(api|apis|version|openapi|healthz|livez|readyz)(/.*)?$")


@dataclass(frozen=True, slots=True, order=True)
class Call:
    """One verb on one resource."""

    group: str
    resource: str
    """With its subresource, as in `ecoworkers/status`."""
    verb: str

    def __str__(self) -> str:
        return f"{self.verb} {'.'.join(filter(None, (self.resource, self.group)))}"


@dataclass(frozen=True, slots=True)
class Role:
    """What a rule allows: a call, on every object or on one."""

    call: Call
    name: str = ""


def asked(log: Path) -> Iterator[tuple[Call, str]]:
    """The operator's calls with the name of their object, as often as they come."""
    with log.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                return
            event = json.loads(line)
            if not _PROGRAM.match(event.get("userAgent", "")):
                continue
            target = event.get("objectRef")
            if target is None:
                path = event["requestURI"].partition("?")[0]
                if not _DISCOVERY.match(path):
                    yield Call("", path, event["verb"]), ""
                continue
            resource = "/".join(filter(None, (target["resource"], target.get("subresource"))))
            group, name = target.get("apiGroup", ""), target.get("name", "")
            yield Call(group, resource, event["verb"]), name
            # An apply of what is not there yet is a creation, and the server asks for that right too.
            if event["verb"] == "patch" and (event.get("responseStatus") or {}).get("code") == 201:
                yield Call(group, resource, "create"), name


def keep(log: Path, file: Path) -> None:
    """Add what the operator asked to a file, each call with each name once."""
    with file.open("a", encoding="utf-8") as kept:
        for call, name in sorted(set(asked(log))):
            kept.write(json.dumps([call.group, call.resource, call.verb, name]) + "\n")


def kept(file: Path) -> set[tuple[Call, str]]:
    """What `keep` has written there."""
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return {(Call(group, resource, verb), name) for group, resource, verb, name in lines}


def allowed(roles: Iterable[Mapping[str, Any]]) -> set[Role]:
    """What the rules of rendered roles allow."""
    return {
        Role(Call(group, resource, verb), name)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames") or ("",)
    }


def missing(calls: Iterable[tuple[Call, str]], roles: set[Role]) -> set[Call]:
    """Calls that no role allows."""
    return {call for call, name in calls if not roles & {Role(call), Role(call, name)}}


def unused(calls: Iterable[tuple[Call, str]], roles: set[Role]) -> set[Call]:
    """Rights that no call has used."""
    made = {role for call, name in calls for role in (Role(call), Role(call, name))}
    return {role.call for role in roles - made}
