"""Lua as Argo CD runs it: version 5.1, without the libraries that Argo CD does not load."""

import importlib
import importlib.util
from typing import Any, Final

from tests.support.parts import require

lua51: Final[Any] = importlib.import_module("lupa.lua51") if importlib.util.find_spec("lupa") else None

_UNLOADED: Final = ("string", "math", "io", "debug", "coroutine", "require", "package", "dofile", "loadfile")
# Argo CD loads the clock of `os`. No health check needs that, and an action only to tell one time from another.
_CLOCK: Final = "os = {date = os.date, time = os.time}"
_NO_CLOCK: Final = "os = nil"


def run(script: str, document: dict[str, Any], *, clock: bool = False) -> Any:
    """Run a script with the object as the global `obj`; what it returns, in Python's types.

    With `clock` it finds `os.date` and `os.time`.
    """
    require(lua51, "lupa (a wheel with Lua, `pip install lupa`)")
    lua = lua51.LuaRuntime(unpack_returned_tuples=True)
    assert lua.eval("_VERSION") == "Lua 5.1"
    lua.execute('getmetatable("").__index = nil')
    lua.execute(_CLOCK if clock else _NO_CLOCK)
    for name in _UNLOADED:
        lua.globals()[name] = None
    lua.globals()["obj"] = lua.table_from(_without_nulls(document), recursive=True)
    return _python(lua.execute(script))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(below) for key, below in value.items() if below is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _python(value: Any) -> Any:
    if lua51.lua_type(value) != "table":
        return value
    keys = list(value.keys())
    if keys and keys == list(range(1, len(keys) + 1)):
        return [_python(value[key]) for key in keys]
    return {key: _python(value[key]) for key in keys}
