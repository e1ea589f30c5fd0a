"""An operator of a later version, as far as pods are concerned: its builders render every one of them otherwise.

Run as `python -m tests.support.newer_operator run`.
"""

from typing import Any, Final

from eco_crds.ecoworker import EcoWorker
from eco_operator import __main__ as operator
from eco_operator.resources import deployment

MARK: Final = {"name": "OF_A_NEWER_OPERATOR", "value": "1"}
_built_now = deployment.pod_template


def pod_template(worker: EcoWorker, index: int, *, image: str) -> dict[str, Any]:
    """The pod of a shard with one variable more and another grace period."""
    template = _built_now(worker, index, image=image)
    template["spec"]["terminationGracePeriodSeconds"] += 1
    template["spec"]["containers"][0]["env"].append(dict(MARK))
    return template


if __name__ == "__main__":
    deployment.pod_template = pod_template
    operator.main()
