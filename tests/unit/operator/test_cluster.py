"""How bodies are written for the API server; what it makes of them is tried on a real one."""

import pytest
import yaml

from eco_operator.cluster import _yaml

TEXTS = ["plain", "\x7f", "\x7f\u00e9", "\x80\x85\u2028\ufeff", "\U0001f680", '\\u0041"\n']


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_what_is_applied_is_yaml_that_says_the_same(text: str) -> None:
    assert yaml.safe_load(_yaml({"data": {text: text}})) == {"data": {text: text}}
