"""Waits for a state with a deadline, in place of a sleep that hopes."""

import asyncio
import time
from collections.abc import Awaitable, Callable

POLL_S = 0.1


async def until(what: str, true: Callable[[], Awaitable[bool]], *, within_s: float) -> float:
    """Ask again until the answer is yes; seconds it took. An AssertionError names what did not come about."""
    begun = time.monotonic()
    while not await true():
        if time.monotonic() - begun > within_s:
            raise AssertionError(f"not within {within_s:g} s: {what}")
        await asyncio.sleep(POLL_S)
    return time.monotonic() - begun


async def stays(what: str, true: Callable[[], Awaitable[bool]], *, for_s: float) -> None:
    """Watch for a while that nothing happens. An AssertionError names what did, and when."""
    begun = time.monotonic()
    while (passed_s := time.monotonic() - begun) < for_s:
        if not await true():
            raise AssertionError(f"over after {passed_s:.1f} of {for_s:g} s: {what}")
        await asyncio.sleep(POLL_S)
