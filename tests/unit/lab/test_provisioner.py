"""Volumes come, grow and go as claims say; one bad claim holds nobody up."""

import urllib.error
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from eco_lab.kubernetes import ApiClient
from eco_lab.provisioner import PROVISIONER, Provisioner, to_bytes

NODE = "volume.kubernetes.io/selected-node"


class Cluster(ApiClient):
    """Answers from memory what the provisioner asks of an API server."""

    def __init__(self) -> None:
        self.classes: list[dict[str, Any]] = []
        self.claims: list[dict[str, Any]] = []
        self.volumes: list[dict[str, Any]] = []
        self.patches: list[tuple[str, Any]] = []
        self.refuses: set[str] = set()

    def call(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Any:
        assert content_type.endswith("json")
        if method == "GET":
            lists = {"storageclasses": self.classes, "persistentvolumes": self.volumes}
            return {"items": lists.get(path.rpartition("/")[2], self.claims)}
        if method == "POST":
            if body["metadata"]["name"] in self.refuses:
                raise urllib.error.HTTPError(path, 500, "no", Message(), None)
            self.volumes.append(body | {"status": {"phase": "Bound"}})
        elif method == "PATCH":
            self.patches.append((path, body))
        elif method == "DELETE":
            self.volumes = [one for one in self.volumes if one["metadata"]["name"] != path.rpartition("/")[2]]
        return {}


def storage_class(name: str = "directory", binding: str = "WaitForFirstConsumer", **parameters: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "provisioner": PROVISIONER,
        "volumeBindingMode": binding,
        "parameters": {"backend": "directory", **parameters},
    }


def claim(uid: str, *, node: str = "n1", storage: str = "directory") -> dict[str, Any]:
    about = {"uid": uid, "name": uid, "namespace": "default", "resourceVersion": "1"}
    spec = {
        "storageClassName": storage,
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
    }
    return {"metadata": about | {"annotations": {NODE: node} if node else {}}, "spec": spec, "status": {}}


@pytest.fixture
def cluster() -> Cluster:
    made = Cluster()
    made.classes = [storage_class()]
    return made


@pytest.mark.parametrize(
    ("quantity", "size"),
    [("64Mi", 64 << 20), ("1Gi", 1 << 30), ("1.5Gi", 3 << 29), ("10G", 10**10), ("500k", 500_000), ("123", 123)],
)
def test_quantities_are_bytes(quantity: str, size: int) -> None:
    assert to_bytes(quantity) == size


def test_a_claim_waits_until_the_scheduler_chose_a_node(cluster: Cluster, tmp_path: Path) -> None:
    cluster.claims = [claim("a", node="")]
    Provisioner(cluster, tmp_path).step()
    assert not cluster.volumes
    cluster.claims = [claim("a")]
    Provisioner(cluster, tmp_path).step()
    assert cluster.volumes[0]["spec"]["claimRef"]["uid"] == "a"


def test_a_volume_is_a_directory_that_any_user_may_write(cluster: Cluster, tmp_path: Path) -> None:
    cluster.claims = [claim("a")]
    Provisioner(cluster, tmp_path).step()
    path = Path(cluster.volumes[0]["spec"]["hostPath"]["path"])
    assert path.parent == tmp_path
    assert path.stat().st_mode & 0o777 == 0o777


def test_a_volume_belongs_to_the_chosen_node_unless_it_is_shared(cluster: Cluster, tmp_path: Path) -> None:
    cluster.classes.append(storage_class("shared", "Immediate", shared="true"))
    cluster.claims = [claim("a", node="n2"), claim("b", node="", storage="shared")]
    Provisioner(cluster, tmp_path).step()
    owned, shared = (volume["spec"] for volume in cluster.volumes)
    assert "n2" in str(owned["nodeAffinity"])
    assert "nodeAffinity" not in shared


def test_claims_of_other_classes_are_left_alone(cluster: Cluster, tmp_path: Path) -> None:
    cluster.claims = [claim("a", storage="somebody-elses")]
    Provisioner(cluster, tmp_path).step()
    assert not cluster.volumes


def test_a_refused_volume_holds_up_no_other(cluster: Cluster, tmp_path: Path) -> None:
    cluster.refuses = {"pvc-a"}
    cluster.claims = [claim("a"), claim("b")]
    Provisioner(cluster, tmp_path).step()
    assert [volume["metadata"]["name"] for volume in cluster.volumes] == ["pvc-b"]


def test_a_claim_that_asks_for_more_gets_it(cluster: Cluster, tmp_path: Path) -> None:
    cluster.claims = [claim("a")]
    provisioner = Provisioner(cluster, tmp_path)
    provisioner.step()
    cluster.claims[0]["spec"]["volumeName"] = "pvc-a"
    cluster.claims[0]["status"] = {"phase": "Bound", "capacity": {"storage": "1Gi"}}
    provisioner.step()
    assert not cluster.patches
    cluster.claims[0]["spec"]["resources"]["requests"]["storage"] = "2Gi"
    provisioner.step()
    volume, status = cluster.patches
    assert volume == ("/api/v1/persistentvolumes/pvc-a", {"spec": {"capacity": {"storage": "2Gi"}}})
    assert status[1]["status"]["capacity"] == {"storage": "2Gi"}


def test_a_claim_never_shrinks(cluster: Cluster, tmp_path: Path) -> None:
    cluster.claims = [claim("a")]
    provisioner = Provisioner(cluster, tmp_path)
    provisioner.step()
    cluster.claims[0]["spec"] |= {"volumeName": "pvc-a", "resources": {"requests": {"storage": "500Mi"}}}
    cluster.claims[0]["status"] = {"phase": "Bound", "capacity": {"storage": "1Gi"}}
    provisioner.step()
    assert not cluster.patches


def released(path: Path, policy: str = "Delete") -> dict[str, Any]:
    return {
        "metadata": {"name": path.name, "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER}},
        "spec": {"persistentVolumeReclaimPolicy": policy, "hostPath": {"path": str(path)}},
        "status": {"phase": "Released"},
    }


def test_a_released_volume_goes_with_its_data(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "pvc-a"
    path.mkdir()
    (path / "file").touch()
    cluster.volumes = [released(path)]
    Provisioner(cluster, tmp_path).step()
    assert not path.exists()
    assert not cluster.volumes


def test_a_retained_volume_stays(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "pvc-a"
    path.mkdir()
    cluster.volumes = [released(path, "Retain")]
    Provisioner(cluster, tmp_path).step()
    assert path.exists()


def test_nothing_outside_of_the_volumes_directory_is_ever_deleted(cluster: Cluster, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    cluster.volumes = [released(elsewhere)]
    Provisioner(cluster, tmp_path / "volumes").step()
    assert elsewhere.exists()
    assert cluster.volumes
