"""Which report of a task wins, as SQL; `beats` is the same rule in Python, and a test holds the two together.

Same shard: higher generation, then higher version. Across shards: completed first, of two completed ones the earlier;
else the higher generation, else failed before timeout, else the earlier end, else the shard's name. The loser goes to
`task_history`. The order is total, so the outcome does not depend on who came first.
"""

from dataclasses import dataclass
from typing import Final

from eco_workers.sync.copy_format import COLUMNS

_LIST: Final = ", ".join(COLUMNS)

_TYPES: Final = {
    "task_id": 'text COLLATE "C"',
    "generation": "bigint",
    "version": "bigint",
    "attempts": "integer",
    "payload": "jsonb",
    "result": "jsonb",
    "created_at": "timestamptz",
    "started_at": "timestamptz",
    "ended_at": "timestamptz",
}
STAGING: Final = f"""
CREATE TEMP TABLE IF NOT EXISTS incoming (
  {", ".join(f"{column} {_TYPES.get(column, 'text')}" for column in COLUMNS)}
) ON COMMIT DELETE ROWS
"""
"""Where a batch is merged from. Its types are those of `task_results`, so both take the same bytes."""


def _beats(new: str, old: str) -> str:
    same = " AND ".join(f"{new}.{column} = {old}.{column}" for column in ("namespace", "worker", "shard"))
    rank = "CASE {0}.state WHEN 'completed' THEN 0 ELSE 1 END"
    failed = "CASE {0}.state WHEN 'failed' THEN 0 ELSE 1 END"
    name = "({0}.namespace || '/' || {0}.worker || '/' || {0}.shard) COLLATE \"C\""
    # A completed report ignores the generation; the others are ordered by it.
    generation = "CASE {0}.state WHEN 'completed' THEN 0 ELSE -{0}.generation END"

    def key(row: str) -> str:
        parts = (rank, generation, failed, "{0}.ended_at", name)
        return "(" + ", ".join(part.format(row) for part in parts) + ")"

    newer = f"({new}.generation, {new}.version) > ({old}.generation, {old}.version)"
    return f"CASE WHEN {same} THEN {newer} ELSE {key(new)} < {key(old)} END"


_FROM_STORED: Final = ", ".join(f"t.{column}" for column in COLUMNS)
_KEY: Final = ("namespace", "worker", "shard", "generation", "version")
_SAME: Final = " AND ".join(f"t.{column} = i.{column}" for column in _KEY)

# A second writer of the same new id waits here for the first one's COMMIT, so the statements below see it. Sorted ids,
# as in a batch that is copied straight into the table: no circle of waiters.
INSERT_NEW: Final = f"""
INSERT INTO task_results ({_LIST})
SELECT {_LIST} FROM incoming ORDER BY task_id
ON CONFLICT (task_id) DO NOTHING
"""  # noqa: S608  # made of the constants above only
LOCK: Final = """
SELECT count(*) FROM (
  SELECT 1 FROM task_results WHERE task_id IN (SELECT task_id FROM incoming) ORDER BY task_id FOR UPDATE
) AS locked
"""
# A report that is about to be replaced, and one that is not good enough, are both kept as history.
HISTORY_OF_REPLACED: Final = f"""
INSERT INTO task_history ({_LIST})
SELECT {_FROM_STORED} FROM task_results t JOIN incoming i USING (task_id)
WHERE NOT ({_SAME}) AND {_beats("i", "t")}
ON CONFLICT DO NOTHING
"""  # noqa: S608  # made of the constants above only
UPSERT: Final = f"""
INSERT INTO task_results AS t ({_LIST})
SELECT {_LIST} FROM incoming ORDER BY task_id
ON CONFLICT (task_id) DO UPDATE SET
  {", ".join(f"{column} = excluded.{column}" for column in COLUMNS if column != "task_id")}, synced_at = now()
WHERE {_beats("excluded", "t")}
"""  # noqa: S608  # made of the constants above only
HISTORY_OF_LOSERS: Final = f"""
INSERT INTO task_history ({_LIST})
SELECT {_LIST} FROM incoming i
WHERE EXISTS (
  SELECT 1 FROM task_results t WHERE t.task_id = i.task_id AND NOT ({_SAME}) AND NOT ({_beats("i", "t")})
)
ON CONFLICT DO NOTHING
"""  # noqa: S608  # made of the constants above only
MERGE: Final = (LOCK, HISTORY_OF_REPLACED, UPSERT, HISTORY_OF_LOSERS)
"""For a batch of which some ids are known already."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What of a report decides whether it wins."""

    origin: tuple[str, str, str]
    state: str
    generation: int
    version: int
    ended_at: float


def beats(new: Standing, old: Standing) -> bool:
    """Whether `new` replaces `old`."""
    if new.origin == old.origin:
        return (new.generation, new.version) > (old.generation, old.version)
    return _key(new) < _key(old)


def _key(row: Standing) -> tuple[int, int, int, float, str]:
    completed = row.state == "completed"
    return (
        0 if completed else 1,
        0 if completed else -row.generation,
        0 if row.state == "failed" else 1,
        row.ended_at,
        "/".join(row.origin),
    )
