"""Gives claims their volumes, and grows and removes them. Runs beside the cluster as a process of its own.

Two kinds of volume, chosen by the parameter `backend` of the storage class:

* `directory`: quick, the size is a promise only;
* `disk`: an XFS file system in a sparse file, of true size: a full one answers ENOSPC, and it grows while in use.
  (XFS, for ext4 refuses to grow online without CAP_SYS_RESOURCE.)

A volume belongs to the node that the scheduler chose, unless the class says `shared: "true"`, as a network disk would.
Growing shows the new size at once: the conditions that a CSI driver sets on the way do not appear.

    python -m eco_lab.provisioner KUBECONFIG VOLUMES_DIRECTORY
"""

import http.client
import shutil
import sys
import threading
import time
import urllib.error
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from eco_lab.errors import LabError
from eco_lab.kubernetes import MERGE_PATCH, ApiClient
from eco_lab.mounts import is_mounted
from eco_lab.processes import run

PROVISIONER: Final = "eco-lab/volumes"
_MADE_BY: Final = "pv.kubernetes.io/provisioned-by"
_BACKEND: Final = "eco-lab/backend"
_CHOSEN_NODE: Final = "volume.kubernetes.io/selected-node"
_RESYNC_S: Final = 10.0
_WATCH_S: Final = 240
_BACK_OFF_MAX_S: Final = 30.0
# mkfs.xfs calls anything smaller unsupported and wants to be told that this is meant.
_XFS_SUPPORTED_BYTES: Final = 300 << 20
_UNITS: Final = dict(zip(("", "k", "M", "G", "T"), (1000**n for n in range(5)), strict=True)) | dict(
    zip(("Ki", "Mi", "Gi", "Ti"), (1024**n for n in range(1, 5)), strict=True)
)

_Object = dict[str, Any]


def to_bytes(quantity: str) -> int:
    """Bytes of a Kubernetes quantity such as `64Mi`."""
    number = quantity.rstrip("kKMGTi")
    return int(float(number) * _UNITS[quantity[len(number) :]])


class Provisioner:
    """Compares claims with volumes and makes the difference go away. One thread; `poke` wakes it early."""

    def __init__(self, client: ApiClient, base: Path) -> None:
        self._client = client
        self._base = base
        self._changed = threading.Event()
        self._failures: dict[str, tuple[int, float]] = {}

    def poke(self) -> None:
        """Look again soon."""
        self._changed.set()

    def run_forever(self) -> None:
        """Serve until the process is ended."""
        self._base.mkdir(parents=True, exist_ok=True)
        _say(f"serving {PROVISIONER} under {self._base}")
        while True:
            self._changed.clear()
            self._guarded("list", self.step)
            self._changed.wait(_RESYNC_S if not self._failures else 1.0)

    def step(self) -> None:
        """One comparison of everything."""
        listed = self._client.call("GET", "/apis/storage.k8s.io/v1/storageclasses")["items"]
        classes = {item["metadata"]["name"]: item for item in listed if item["provisioner"] == PROVISIONER}
        listed = self._client.call("GET", "/api/v1/persistentvolumes")["items"]
        volumes = {item["metadata"]["name"]: item for item in listed if _annotations(item).get(_MADE_BY) == PROVISIONER}
        for volume in volumes.values():
            self._guarded(volume["metadata"]["name"], partial(self._remount, volume))
        for claim in self._client.call("GET", "/api/v1/persistentvolumeclaims")["items"]:
            storage_class = classes.get(claim["spec"].get("storageClassName"))
            if storage_class is not None and "deletionTimestamp" not in claim["metadata"]:
                volume = volumes.get(claim["spec"].get("volumeName", ""))
                uid = claim["metadata"]["uid"]
                self._guarded(uid, partial(self._serve, claim, storage_class, volume))
        for volume in volumes.values():
            if _is_released(volume):
                self._guarded(volume["metadata"]["name"], partial(self._remove, volume))

    def _serve(self, claim: _Object, storage_class: _Object, volume: _Object | None) -> None:
        if "volumeName" not in claim["spec"]:
            waits = storage_class.get("volumeBindingMode") == "WaitForFirstConsumer"
            if not waits or _CHOSEN_NODE in _annotations(claim):
                self._provision(claim, storage_class)
        elif volume is not None and claim["status"].get("phase") == "Bound":
            wanted = claim["spec"]["resources"]["requests"]["storage"]
            if to_bytes(wanted) > to_bytes(claim["status"]["capacity"]["storage"]):
                self._grow(claim, volume, wanted)

    def _provision(self, claim: _Object, storage_class: _Object) -> None:
        about = claim["metadata"]
        parameters = storage_class.get("parameters") or {}
        backend = parameters.get("backend", "directory")
        size = claim["spec"]["resources"]["requests"]["storage"]
        name = f"pvc-{about['uid']}"
        path = self._base / name
        path.mkdir(parents=True, exist_ok=True)
        if backend == "disk":
            _make_disk(path, to_bytes(size))
        # No fsGroup for hostPath volumes: every user may write.
        path.chmod(0o777)
        reference = {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
        reference |= {key: about[key] for key in ("namespace", "name", "uid", "resourceVersion")}
        spec: _Object = {
            "capacity": {"storage": size},
            "accessModes": claim["spec"]["accessModes"],
            "storageClassName": storage_class["metadata"]["name"],
            "persistentVolumeReclaimPolicy": storage_class.get("reclaimPolicy", "Delete"),
            "hostPath": {"path": str(path), "type": "Directory"},
            "claimRef": reference,
        }
        node = _annotations(claim).get(_CHOSEN_NODE)
        if node is not None and parameters.get("shared") != "true":
            term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}
            spec["nodeAffinity"] = {"required": {"nodeSelectorTerms": [term]}}
        metadata = {"name": name, "annotations": {_MADE_BY: PROVISIONER, _BACKEND: backend}}
        volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec}
        try:
            self._client.call("POST", "/api/v1/persistentvolumes", volume)
        except urllib.error.HTTPError as error:
            if error.code != 409:
                raise
        else:
            _say(f"made {name} ({backend}, {size}) for {about['namespace']}/{about['name']}")

    def _grow(self, claim: _Object, volume: _Object, size: str) -> None:
        path = Path(volume["spec"]["hostPath"]["path"])
        if _annotations(volume).get(_BACKEND) == "disk":
            with _image(path).open("r+b") as image:
                image.truncate(to_bytes(size))
            device = run(["losetup", "-j", _image(path), "-O", "NAME", "-n"]).split()[0]
            run(["losetup", "-c", device])
            run(["xfs_growfs", path])
        name, about = volume["metadata"]["name"], claim["metadata"]
        patch: _Object = {"spec": {"capacity": {"storage": size}}}
        self._client.call("PATCH", f"/api/v1/persistentvolumes/{name}", patch, MERGE_PATCH)
        # What the API server or kubelet noted about the resize is over with the new capacity.
        over = dict.fromkeys(("conditions", "allocatedResources", "allocatedResourceStatuses"))
        claims = f"/api/v1/namespaces/{about['namespace']}/persistentvolumeclaims"
        status = {"status": {"capacity": {"storage": size}, **over}}
        self._client.call("PATCH", f"{claims}/{about['name']}/status", status, MERGE_PATCH)
        _say(f"grew {name} to {size}")

    def _remove(self, volume: _Object) -> None:
        name = volume["metadata"]["name"]
        path = Path(volume["spec"]["hostPath"]["path"])
        if path.parent != self._base:
            raise LabError(f"remove volume {name}", f"{path} is not below {self._base}")
        while is_mounted(path):
            run(["umount", path])
        shutil.rmtree(path, ignore_errors=True)
        _image(path).unlink(missing_ok=True)
        self._client.call("DELETE", f"/api/v1/persistentvolumes/{name}")
        _say(f"removed {name}")

    def _remount(self, volume: _Object) -> None:
        """Put the disks back after a restart of the lab."""
        path = Path(volume["spec"]["hostPath"]["path"])
        if volume["status"].get("phase") == "Bound" and _image(path).exists() and not is_mounted(path):
            run(["mount", "-o", "loop", _image(path), path])
            _say(f"mounted {path.name} again")

    def _guarded(self, key: str, action: Callable[[], None]) -> None:
        """Run an action; say a failure once a try and leave growing pauses between the tries."""
        tries, not_before = self._failures.get(key, (0, 0.0))
        if time.monotonic() < not_before:
            return
        try:
            action()
        except (OSError, LabError, http.client.HTTPException, KeyError, ValueError) as error:
            pause_s = min(_BACK_OFF_MAX_S, 0.5 * 2**tries)
            self._failures[key] = (tries + 1, time.monotonic() + pause_s)
            _say(f"{key}: {error!r}; again in {pause_s:g} s")
        else:
            self._failures.pop(key, None)


def _make_disk(path: Path, size_bytes: int) -> None:
    if is_mounted(path):
        return
    image = _image(path)
    if not image.exists():
        scratch = image.with_suffix(".new")
        with scratch.open("wb") as file:
            file.truncate(size_bytes)
        small = ("--unsupported",) if size_bytes < _XFS_SUPPORTED_BYTES else ()
        run(["mkfs.xfs", "-q", "-f", *small, scratch])
        # In place only when formatted: a half-made one would be mounted after a crash.
        scratch.replace(image)
    run(["mount", "-o", "loop", image, path])


def _image(path: Path) -> Path:
    return path.with_suffix(".img")


def _annotations(item: _Object) -> dict[str, str]:
    return item["metadata"].get("annotations") or {}


def _is_released(volume: _Object) -> bool:
    return (
        volume["spec"].get("persistentVolumeReclaimPolicy") == "Delete"
        and volume["status"].get("phase") == "Released"
        and "deletionTimestamp" not in volume["metadata"]
    )


def _follow(client: ApiClient, path: str, poke: Callable[[], None]) -> None:
    """Poke at each change, for ever; a lost watch is opened again, and the resync covers the gap."""
    while True:
        try:
            with client.watch(path, timeout_s=_WATCH_S) as events:
                for _ in events:
                    poke()
        except (OSError, LabError, http.client.HTTPException):
            time.sleep(1)


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


def main() -> None:
    """Serve the cluster of the kubeconfig named on the command line."""
    kubeconfig, base = sys.argv[1:]
    client = ApiClient.from_kubeconfig(Path(kubeconfig))
    provisioner = Provisioner(client, Path(base))
    for path in ("/api/v1/persistentvolumeclaims", "/api/v1/persistentvolumes"):
        threading.Thread(target=_follow, args=(client, path, provisioner.poke), daemon=True).start()
    provisioner.run_forever()


if __name__ == "__main__":
    main()
