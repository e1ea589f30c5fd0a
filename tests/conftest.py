"""Fixtures that every layer of tests shares."""

pytest_plugins = ["tests.support.lab", "tests.support.logs"]
