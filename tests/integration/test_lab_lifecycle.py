"""A second lab, control plane only, in a network namespace of its own: comes, is repaired, goes without a trace."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eco_lab import paths as lab_paths
from eco_lab.programs import ladder
from tests.support.parts import require

pytestmark = [pytest.mark.root, pytest.mark.slow]

PREFIX = "ecotest"
# Not below /tmp's usual places: a machine of the lab must see its own state directory.
STATE = Path.home() / ".local" / "state" / "eco-lab-test"


class SecondLab:
    """Runs `eco-lab` and looks around, in network and mount namespaces beside this machine's."""

    def __init__(self, holder: int) -> None:
        self.holder = holder
        self.environ = {**os.environ, "ECO_LAB_STATE": str(STATE), "ECO_LAB_PREFIX": PREFIX}

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        entered = ["nsenter", "-t", str(self.holder), "-n", "-m", "--", *command]
        done = subprocess.run(entered, env=self.environ, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0 or not check, done.stderr
        return done

    def eco_lab(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "eco_lab", *words, check=check)

    def daemons(self) -> dict[str, dict[str, bool]]:
        found = json.loads(self.eco_lab("status", "--json", check=False).stdout)["daemons"]
        assert isinstance(found, dict)
        return found

    def trace(self) -> dict[str, list[str]]:
        """All that a lab could leave on a machine."""
        mounts = self.run("cut", "-d", " ", "-f", "5", "/proc/self/mountinfo").stdout.splitlines()
        settings = self.run("sysctl", "-a", check=False).stdout.splitlines()
        kept = ("net.ipv4.ip_forward", "net.ipv4.conf.all", "kernel.panic", "vm.overcommit", "vm.panic", "kernel.keys")
        groups = Path("/sys/fs/cgroup").glob(f"**/{PREFIX}-*")
        return {
            "addresses": self.run("ip", "-o", "address").stdout.splitlines(),
            "routes": self.run("ip", "route").stdout.splitlines(),
            "firewall": [line for line in self.run("iptables-save").stdout.splitlines() if not line.startswith("#")],
            # Images may be built at the same time: their store is no trace of a running lab.
            "mounts": [mount for mount in mounts if "/buildah/" not in mount and "/run/netns" not in mount],
            "settings": [line for line in settings if line.startswith(kept)],
            "namespaces": sorted(path.name for path in Path("/run/netns").glob(f"{PREFIX}-*")),
            "groups": sorted(str(path) for path in groups),
            "processes": sorted(processes_with(str(STATE))),
        }


def processes_with(text: str) -> Iterator[str]:
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            with contextlib.suppress(OSError):
                command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if text in command:
                    yield command


@pytest.fixture(scope="module")
def second_lab() -> Iterator[SecondLab]:
    require(os.geteuid() == 0, "root, to make namespaces")
    require(ladder.cluster_directory(lab_paths.find()).exists(), "the cluster's programs (`eco-lab up` once)")
    shutil.rmtree(STATE, ignore_errors=True)
    namespaces = ["unshare", "--net", "--mount", "--propagation", "private"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*namespaces, "sh", "-c", "ip link set lo up; echo up; exec cat"], stdin=pipe, stdout=pipe
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"up\n"
        lab = SecondLab(holder.pid)
        try:
            yield lab
        finally:
            lab.eco_lab("down", "--wipe", check=False)
            holder.kill()
    shutil.rmtree(STATE, ignore_errors=True)


def test_a_lab_goes_without_a_trace(second_lab: SecondLab) -> None:
    """Addresses, routes, firewall, mounts, settings, namespaces, control groups and processes are as before."""
    before = second_lab.trace()
    second_lab.eco_lab("up", "--only", "control-plane")
    during = second_lab.trace()
    assert during["routes"] != before["routes"]
    assert during["processes"]
    assert {key: during[key] for key in ("firewall", "settings")} == {
        key: before[key] for key in ("firewall", "settings")
    }
    second_lab.eco_lab("down", "--wipe")
    assert second_lab.trace() == before
    assert {path.name for path in STATE.iterdir()} == {"lock"}


def test_starting_twice_changes_nothing(second_lab: SecondLab) -> None:
    second_lab.eco_lab("up", "--only", "control-plane")
    records = {path: path.read_text() for path in (STATE / "run").rglob("*.json")}
    second_lab.eco_lab("up", "--only", "control-plane")
    assert {path: path.read_text() for path in (STATE / "run").rglob("*.json")} == records
    assert all(second_lab.daemons()["cp"].values())


def test_a_half_finished_start_can_be_repeated(second_lab: SecondLab) -> None:
    """The scheduler is dead and the API server too, as after a start that was cut off in between."""
    second_lab.eco_lab("up", "--only", "control-plane")
    for name in ("kube-apiserver", "kube-scheduler"):
        os.kill(json.loads((STATE / "run" / "cp" / f"{name}.json").read_text())["pid"], 9)
    assert not all(second_lab.daemons()["cp"].values())
    second_lab.eco_lab("up", "--only", "control-plane")
    assert all(second_lab.daemons()["cp"].values())


def test_a_power_cut_of_the_control_plane_loses_no_object(second_lab: SecondLab) -> None:
    second_lab.eco_lab("up", "--only", "control-plane")
    found = json.loads(second_lab.eco_lab("env", "--json").stdout)
    kubectl = [found["kubectl"], f"--kubeconfig={found['kubeconfig']}"]
    second_lab.run(*kubectl, "create", "configmap", "kept", "--from-literal=a=b")
    os.kill(json.loads((STATE / "run" / "cp" / "init.json").read_text())["pid"], 9)
    second_lab.eco_lab("up", "--only", "control-plane")
    assert second_lab.run(*kubectl, "get", "configmap", "kept", "-o", "jsonpath={.data.a}").stdout == "b"


def test_writes_are_in_the_audit_log_and_reads_are_not(second_lab: SecondLab) -> None:
    second_lab.eco_lab("up", "--only", "control-plane")
    found = json.loads(second_lab.eco_lab("env", "--json").stdout)
    kubectl = [found["kubectl"], f"--kubeconfig={found['kubeconfig']}"]
    second_lab.run(*kubectl, "create", "configmap", "audited")
    second_lab.run(*kubectl, "get", "configmap", "audited")
    entries = [json.loads(line) for line in Path(found["audit_log"]).read_text().splitlines()]
    mine = [entry["verb"] for entry in entries if entry["objectRef"].get("name") == "audited"]
    assert mine == ["create"]


def test_a_foreign_process_with_a_recorded_number_is_not_touched(second_lab: SecondLab) -> None:
    """The number of a daemon that died was given to somebody else: `down` must leave that process alone."""
    second_lab.eco_lab("up", "--only", "control-plane")
    record = STATE / "run" / "provisioner.json"
    held = json.loads(record.read_text())
    os.kill(held["pid"], 9)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as bystander:
        record.write_text(json.dumps({**held, "pid": bystander.pid}))
        second_lab.eco_lab("down")
        assert bystander.poll() is None
        bystander.kill()


def test_two_changes_at_once_take_turns(second_lab: SecondLab) -> None:
    words = ["nsenter", "-t", str(second_lab.holder), "-n", "-m", "--", sys.executable, "-m", "eco_lab", "up"]
    first = subprocess.Popen([*words, "--only", "control-plane"], env=second_lab.environ, stderr=subprocess.PIPE)
    second_lab.eco_lab("up", "--only", "control-plane")
    _, said = first.communicate(timeout=120)
    assert first.returncode == 0, said
    assert all(second_lab.daemons()["cp"].values())
