"""Builds the Kubernetes objects of an EcoWorker, one object a module.

Pure: a model goes in, a dictionary comes out, the same one each time. Nothing here reads a clock, a file, a random
number or the API server, so what is wanted can be computed anew at any time and compared by its hash. Imports
`eco_crds` only.
"""

from eco_operator.resources import (
    application,
    budget,
    claim,
    controller_revision,
    deployment,
    job,
    metadata,
    service,
    service_monitor,
    shard_config,
    sync_config,
    token_secret,
)

__all__ = [
    "application",
    "budget",
    "claim",
    "controller_revision",
    "deployment",
    "job",
    "metadata",
    "service",
    "service_monitor",
    "shard_config",
    "sync_config",
    "token_secret",
]
