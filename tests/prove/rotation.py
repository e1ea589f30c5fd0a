"""The token of the workers' admin surface is replaced while they work: `make prove-rotation`.

Its Secret is deleted, as a person would who fears that it is known. The operator makes another, the kubelets bring it
into the pods, and no pod is restarted for it. From then on the old one is refused, the new one taken, and a request to
sync reaches every worker. The ledger of the demo judges. Exit status 1 when a target is missed.
"""

import base64
from http import HTTPStatus
from typing import Any, Final

import aiohttp

from eco_crds import contract
from eco_lab.demo import manifests
from eco_lab.demo.narration import Narrator
from eco_lab.demo.story import Stage
from eco_lab.environment import LabEnvironment
from tests.prove.cluster import at_rest, identities, status, worked
from tests.support import figures, proof
from tests.support.waiting import until

NAME: Final = "prove-rotation"
SECRET: Final = contract.token_secret_name(manifests.WORKER)
MADE_WITHIN_S: Final = 30.0
REACHED_WITHIN_S: Final = 180.0
"""A kubelet looks at what it has mounted about once a minute."""
REQUEST: Final = "after-the-rotation"


async def token(stage: Stage) -> str:
    """The token as the Secret has it; empty while there is none."""
    found: dict[str, Any] = await stage.kubectl.get("secret", SECRET, "-n", NAME) or {}
    return base64.b64decode(found.get("data", {}).get(contract.TOKEN_KEY, "")).decode()


async def answers(stage: Stage, session: aiohttp.ClientSession, given: str) -> set[int]:
    """HTTP statuses of all workers' admin surfaces for a command with a token."""
    pods = await stage.kubectl.get("pods", "-n", NAME, "-l", f"{contract.LABEL_WORKER}={manifests.WORKER}")
    said = set()
    for pod in pods["items"]:
        url = f"http://{pod['status']['podIP']}:{contract.ADMIN_PORT}/wal/sync"
        async with session.post(url, headers={"Authorization": f"Bearer {given}"}) as answer:
            said.add(answer.status)
    return said


async def prove(lab: LabEnvironment, narrator: Narrator) -> None:
    """Delete the Secret under load, and follow the new token into the workers."""
    async with worked(lab, NAME, narrator) as stage, aiohttp.ClientSession() as session:
        before, old = await identities(stage), await token(stage)
        assert await answers(stage, session, old) == {HTTPStatus.OK}, "the token was not good before"
        await stage.kubectl.delete("secret", SECRET, "-n", NAME)

        async def is_new() -> bool:
            return await token(stage) not in ("", old)

        made_s = await until("the operator has made another", is_new, within_s=MADE_WITHIN_S)
        new = await token(stage)

        async def has_arrived() -> bool:
            return await answers(stage, session, new) == {HTTPStatus.OK}

        took_s = made_s + await until("every worker takes the new token", has_arrived, within_s=REACHED_WITHIN_S)
        narrator.say(f"every worker takes the new token {took_s:.1f} s after its Secret was deleted")
        refused = await answers(stage, session, old)
        note = f"{contract.ANNOTATION_SYNC_NOW}={REQUEST}"
        await stage.kubectl.run("annotate", f"walsync/{manifests.WORKER}", note, "-n", NAME)

        async def has_passed_on() -> bool:
            return {it.get("syncNow") for it in (await status(stage)).get("shards", ())} == {REQUEST}

        passed_s = await until("the operator has told every worker", has_passed_on, within_s=REACHED_WITHIN_S)
        ledger = await at_rest(stage)
        touched = len(before ^ await identities(stage))
        still = 0 if refused == {HTTPStatus.UNAUTHORIZED} else 1
        figures.record("operator.token_made_s", round(made_s, 1), "s", peer="from the deletion of its Secret")
        figures.record("operator.token_reached_s", round(took_s, 1), "s", peer="all workers; the kubelet's time in it")
        figures.record("operator.token_command_s", round(passed_s, 1), "s", peer="a request to sync, all workers told")
        figures.record("operator.token_old_taken", still, "0 or 1", "== 0", peer="the old token after that")
        figures.record("operator.token_touched", touched, "pods changed", "== 0")
        figures.record("operator.token_lost", len(ledger.lost), "tasks", "== 0", peer=f"{ledger.published} tasks")


if __name__ == "__main__":
    proof.main("tests.prove.rotation", __doc__, prove)
