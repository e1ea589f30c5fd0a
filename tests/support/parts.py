"""Real parts that a test needs: present, or the test is skipped by name; with `CI=true` it fails instead."""

import os

import pytest


def require(present: object, missing: str) -> None:
    """Go on when `present` is true; else skip and name what is `missing`, or fail where nothing may be missing."""
    if present:
        return
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"needed here and missing: {missing}", pytrace=False)
    pytest.skip(f"missing: {missing}")
