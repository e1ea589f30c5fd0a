"""A sample of the faults that `python -m tests.prove.operator` tries in full, and proof that a fault would be seen."""

from dataclasses import replace
from pathlib import Path

import pytest

from eco_operator import cluster as operator_cluster
from eco_operator import errors, kinds
from eco_operator.objects import project
from tests.support.apiserver import ApiServer
from tests.support.fault_runs import api_faults, crash_points, rig
from tests.support.fault_scenarios import SCENARIOS
from tests.support.faulty_api import Fault
from tests.support.operator_fuzz import fuzz, permissive_server
from tests.support.operator_world import environment_with
from tests.support.waiting import until

pytestmark = pytest.mark.cluster

APPLY = [it for it in SCENARIOS if it.name == "apply"]
GONE_ANSWERS = 40
SAMPLE = [it for it in SCENARIOS if it.name in {"apply", "scale-in", "growth", "recovery"}]


@pytest.mark.parametrize(
    "text", ["\U0001f680", "\x7f\x80\x85\u2028\u2029\ufeff", "\\ud83d\\ude80", "'\"#: \t\n"], ids=ascii
)
async def test_any_text_arrives_as_it_was_applied(server: ApiServer, text: str) -> None:
    with environment_with("KUBECONFIG", str(server.kubeconfig)):
        connected = await operator_cluster.connect()
    metadata = {"name": "texts", "namespace": "default"}
    async with connected as cluster:
        desired = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"text": text}}
        await cluster.apply(desired, force=True)
        found = await cluster.get(kinds.CONFIG_MAP, "default", "texts")
    assert found["data"]["text"] == text


async def test_the_server_says_that_a_test_of_a_patch_failed_in_the_words_that_are_looked_for(
    server: ApiServer,
) -> None:
    """It has no reason of its own for that: a policy's refusal has the same status."""
    with environment_with("KUBECONFIG", str(server.kubeconfig)):
        connected = await operator_cluster.connect()
    metadata = {"name": "tested", "namespace": "default"}
    path = kinds.CONFIG_MAP.path("default", "tested")
    async with connected as cluster:
        await cluster.make({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": "b"}})
        patch = [{"op": "test", "path": "/metadata/uid", "value": "another"}]
        with pytest.raises(errors.RejectedError, match=operator_cluster.TEST_FAILED):
            await cluster._request("patch", kinds.CONFIG_MAP, path, body=patch)
        found = await cluster.get(kinds.CONFIG_MAP, "default", "tested")
        child = project(kinds.CONFIG_MAP, found)
        with pytest.raises(errors.ConflictError, match="changed what is ours"):
            await cluster.own(kinds.CONFIG_MAP, replace(child, uid="another"))
        await cluster.own(kinds.CONFIG_MAP, child)
        await cluster.own(kinds.CONFIG_MAP, child)  # Once more is no harm.
        assert not project(kinds.CONFIG_MAP, await cluster.get(kinds.CONFIG_MAP, "default", "tested")).is_as_created


async def test_a_crash_or_a_bad_answer_changes_nothing_of_the_end(server: ApiServer, tmp_path: Path) -> None:
    async with rig(server, tmp_path) as made:
        await made.learn(SAMPLE)
        crashed = await crash_points(made, 5, SAMPLE)
        assert [it.scenario for it in crashed] == ["apply", "scale-in", "growth", "recovery"]
        faulty = [
            verdict
            for fault in (Fault.CONFLICT, Fault.LOST_ANSWER)
            for verdict in await api_faults(made, fault, 3, SAMPLE)
        ]
        assert [str(it) for it in (*crashed, *faulty) if it.complaints] == []
        assert made.exits == []


async def test_an_operator_that_lives_by_events_alone_is_caught_when_they_are_lost(
    server: ApiServer, tmp_path: Path
) -> None:
    async with rig(server, tmp_path) as made:
        await made.learn(APPLY)
    (tmp_path / "sabotaged").mkdir()
    async with rig(server, tmp_path / "sabotaged", module="tests.support.edge_triggered_operator") as sabotaged:
        sabotaged.ends, sabotaged.end_within_s = made.ends, 8
        found = await api_faults(sabotaged, Fault.DROP_EVENTS, 1, APPLY)
    assert [it.scenario for it in found if it.complaints] == ["apply"]


async def test_an_operator_that_takes_up_nothing_that_a_crash_left_half_made_is_caught(
    server: ApiServer, tmp_path: Path
) -> None:
    async with rig(server, tmp_path) as made:
        await made.learn(APPLY)
    (tmp_path / "sabotaged").mkdir()
    async with rig(server, tmp_path / "sabotaged", module="tests.support.forgetful_operator") as sabotaged:
        sabotaged.ends, sabotaged.writes, sabotaged.end_within_s = made.ends, made.writes, 8
        unharmed = await sabotaged.play(APPLY, "no crash", lambda _: sabotaged.api.begin())
        found = await crash_points(sabotaged, 4, APPLY)
    assert [str(it) for it in unharmed if it.complaints] == []
    assert [it.scenario for it in found if it.complaints] == ["apply"]


async def test_watches_that_fail_are_begun_anew_in_the_same_process(server: ApiServer, tmp_path: Path) -> None:
    """Told 410 where it watches and lists, Kopf would end the process; and kill it should that take long."""
    async with rig(server, tmp_path) as made:
        await made.learn(APPLY)
        first, watches = made.operator.pid, made.api.watches
        made.api.begin(Fault.GONE, budget=GONE_ANSWERS, probability=1.0)
        made.api.cut_watches()

        async def all_given() -> bool:
            return made.api.injected == GONE_ANSWERS

        async def all_watched() -> bool:
            return made.api.watches >= watches

        await until("every 410 has been given", all_given, within_s=60)
        made.api.end()
        await until("everything is watched again", all_watched, within_s=60)
        found = await api_faults(made, Fault.REPEAT_EVENTS, 3, APPLY)
        assert (made.exits, made.operator.pid) == ([], first)
        assert [str(it) for it in found if it.complaints] == []
        assert b"the watches failed" in made.operator.log.read_bytes()


async def test_random_objects_and_edits_get_a_verdict_and_cost_no_journal(tmp_path: Path) -> None:
    with permissive_server() as server:
        tally = await fuzz(server, tmp_path, objects=25, seed=7)
    assert tally.complaints() == []
    assert tally.objects == 25
    assert tally.invalid > 10


async def test_an_operator_that_takes_what_is_not_its_own_is_caught(tmp_path: Path) -> None:
    with permissive_server() as server:
        tally = await fuzz(server, tmp_path, objects=12, seed=7, module="tests.support.grasping_operator")
    assert [it for it in tally.wrong_deletions if "somebody else's" in it]
