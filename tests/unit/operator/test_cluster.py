"""How bodies are written for the API server; what it makes of them is tried on a real one."""

import ssl
from typing import Any

import pytest
import yaml
from kubernetes.aio import client as kubernetes_client

from eco_crds import contract
from eco_operator import errors, kinds
from eco_operator.cluster import TEST_FAILED, Cluster, _yaml
from eco_operator.objects import project

TEXTS = ["plain", "\x7f", "\x7f\u00e9", "\x80\x85\u2028\ufeff", "\U0001f680", '\\u0041"\n']


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_what_is_applied_is_yaml_that_says_the_same(text: str) -> None:
    assert yaml.safe_load(_yaml({"data": {text: text}})) == {"data": {text: text}}


class Refusing(Cluster):
    """An API server that refuses every patch, in these words."""

    def __init__(self, words: str, body: dict[str, Any]) -> None:
        self.words, self.body = words, body

    async def _request(self, verb: str, kind: kinds.Kind, path: str, **_: object) -> dict[str, Any]:
        assert kind is kinds.CONFIG_MAP
        if verb == "get":
            return self.body
        raise errors.RejectedError(verb, path, status=422, message=self.words)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (f"the server {TEST_FAILED}", errors.ConflictError),
        ("ValidatingAdmissionPolicy 'frozen' denied request: no changes", errors.RejectedError),
    ],
)
async def test_a_policy_that_refuses_is_no_conflict_that_goes_by_itself(
    words: str, error: type[errors.ApiError]
) -> None:
    created = {"manager": contract.FIELD_MANAGER, "operation": "Update", "fieldsV1": {"f:data": {}}}
    body = {"metadata": {"name": "a", "namespace": "b", "uid": "c", "managedFields": [created]}}
    with pytest.raises(error):
        await Refusing(words, body).own(kinds.CONFIG_MAP, project(kinds.CONFIG_MAP, body))


@pytest.mark.parametrize(("asked", "read"), [(262_144, 16_384), (100, 100)])
async def test_a_connection_is_read_by_no_more_than_a_record(
    monkeypatch: pytest.MonkeyPatch, asked: int, read: int
) -> None:
    """Of more than a record at once nothing ever comes, and the memory for it costs more than the reading."""
    sizes = []
    monkeypatch.setattr(ssl.SSLObject, "read", lambda _, size, __: sizes.append(size))
    async with Cluster(kubernetes_client.Configuration(), lambda *_: None) as cluster:
        context = cluster._client.rest_client.ssl_context
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="server").read(asked)
    assert sizes == [read]
