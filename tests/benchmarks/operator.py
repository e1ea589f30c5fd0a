"""How fast the operator is with a fleet: `make bench-operator`; `--sizes 100` tries it on a small one.

API server and etcd are real, and nothing else of a cluster is there: pods are objects whose addresses lie on the
loopback interface, where one server answers for every worker. Converging is held against a bare client that creates
the very same objects with as many requests at once, on a server that is idle again; of several rounds the best of each
counts. At the largest size come memory, writes and processor time at rest, the time from an edit to the first write
about it, and from a change in a journal to the status.
"""

import argparse
import asyncio
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from eco_operator import cluster as operator_cluster
from tests.support import figures
from tests.support.operator_bench import EDITS, NEWS, REST_S, Bench, Phase, resident_mib, workers
from tests.support.operator_world import environment_with, kubectl, operator_program, server_with_kinds

SIZES: Final = (100, 300, 1000)
ROUNDS: Final = 3
RESYNC_INTERVAL_S: Final = 60
ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Round:
    """What one round at one size came to."""

    operator: Phase
    told_s: float
    bare: Phase


async def measure(size: int, *, is_all: bool) -> Round:
    """One round at one size, on an API server of its own; `is_all` measures what only the largest fleet is asked."""
    with server_with_kinds() as server, TemporaryDirectory() as place:
        namespace = f"fleet-{size}"
        kubectl(server, "create", "namespace", namespace)
        operator, _ = operator_program(
            server,
            namespace,
            Path(place),
            ECO_OPERATOR_PROBE_INTERVAL_S="5",
            ECO_OPERATOR_PROBE_TIMEOUT_S="2",
            ECO_OPERATOR_RESYNC_INTERVAL_S=str(RESYNC_INTERVAL_S),
            ECO_OPERATOR_STATUS_INTERVAL_S="30",
            **_allocator_of_the_image(),
        )
        with environment_with("KUBECONFIG", str(server.kubeconfig)):
            connected = await operator_cluster.connect()
        async with connected as cluster, workers() as fleet:
            cluster._client.user_agent = "stand-in"
            bench = Bench(server, cluster, fleet, operator, namespace, size)
            try:
                converged, told_s = await bench.converge()
                found = Round(converged, told_s, await bench.bare())
                print(f"{size} EcoWorkers: {found.operator}; a bare client {found.bare}", flush=True)
                if is_all:
                    await _figures(bench)
            finally:
                operator.kill()
    return found


def _record_rounds(size: int, rounds: Sequence[Round], target: str | None) -> None:
    took_s, bare_s = min(it.operator.took_s for it in rounds), min(it.bare.took_s for it in rounds)
    peer = f"{took_s:.1f} s from the start of the process, bare {bare_s:.1f} s; best of {len(rounds)} each"
    figures.record(f"operator.converge_vs_bare_{size}", took_s / bare_s, "ratio", target, peer=peer)
    told_s = min(it.told_s for it in rounds)
    figures.record(f"operator.first_verdicts_s_{size}", round(told_s, 1), "s", peer="until each has a status")


async def _figures(bench: Bench) -> None:
    size, chance = bench.size, random.Random(bench.size)
    await bench.run_pods()
    writes, percent = await bench.rest()
    for write in writes[:10]:
        print(f"  at rest: {write}")
    figures.record(f"operator.rss_mib_{size}", round(resident_mib(bench.operator.pid), 1), "MiB", "<= 150")
    peer = f"in {REST_S:.0f} s with a resync every {RESYNC_INTERVAL_S} s"
    figures.record(f"operator.idle_writes_{size}", len(writes), "writes", "== 0", peer=peer)
    figures.record(f"operator.idle_cpu_percent_{size}", round(percent, 1), "%", peer=peer)
    news = await bench.news(chance)
    worst_s = round(news[int(len(news) * 0.99)], 2)
    peer = f"{NEWS} changes, median {news[len(news) // 2]:.2f} s"
    figures.record("operator.wal_to_status_p99_s", worst_s, "s", "<= 15", peer=peer)
    edits = await bench.edits(chance)
    for name, share, target in (("p50", 0.5, "<= 50"), ("p99", 0.99, "<= 300")):
        value = round(1000 * edits[int(len(edits) * share)], 1)
        figures.record(f"operator.edit_to_write_{name}_ms_{size}", value, "ms", target, peer=f"{EDITS} edits")


def _allocator_of_the_image() -> dict[str, str]:
    """How the operator's image has the C library allocate, which counts for its memory."""
    return dict(re.findall(r"(MALLOC_\w+)=(\S+)", (ROOT / "operator/Dockerfile").read_text()))


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.operator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="EcoWorkers, of two shards each")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of converging, at each size")
    arguments = parser.parse_args()
    for size in arguments.sizes:
        is_largest = size == max(arguments.sizes)
        rounds = [
            asyncio.run(measure(size, is_all=is_largest and turn == arguments.rounds - 1))
            for turn in range(arguments.rounds)
        ]
        _record_rounds(size, rounds, "<= 1.5" if is_largest else None)
    print(figures.table())
    sys.exit(1 if figures.missed() else 0)


if __name__ == "__main__":
    main()
