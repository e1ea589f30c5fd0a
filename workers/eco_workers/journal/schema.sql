-- Release 1 of the journal's file. The meaning of each record is told in the header of the package.
--
-- Times are unix seconds of the journal's clock. `checksum` is the CRC-32 of the row's other columns (checksums.py),
-- checked at each read: SQLite notices a damaged page structure, never a flipped bit inside a value.

CREATE TABLE meta (
  key      TEXT PRIMARY KEY,
  value    TEXT NOT NULL,
  checksum INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row. The epoch is read at the begin of each group commit; the counters are written by the group that changes them,
-- so statistics never scan a table.
CREATE TABLE ledger (
  only_row      INTEGER PRIMARY KEY CHECK (only_row = 1),
  epoch         INTEGER NOT NULL CHECK (epoch >= 0),
  completed     INTEGER NOT NULL DEFAULT 0 CHECK (completed >= 0),
  failed        INTEGER NOT NULL DEFAULT 0 CHECK (failed >= 0),
  timeout       INTEGER NOT NULL DEFAULT 0 CHECK (timeout >= 0),
  republished   INTEGER NOT NULL DEFAULT 0 CHECK (republished >= 0),
  unsynced      INTEGER NOT NULL DEFAULT 0 CHECK (unsynced >= 0),
  sync_parked   INTEGER NOT NULL DEFAULT 0 CHECK (sync_parked >= 0),
  outbox_unsent INTEGER NOT NULL DEFAULT 0 CHECK (outbox_unsent >= 0),
  outbox_parked INTEGER NOT NULL DEFAULT 0 CHECK (outbox_parked >= 0),
  checksum      INTEGER NOT NULL
) STRICT;

CREATE TABLE task_wal (
  id                INTEGER PRIMARY KEY,
  task_id           TEXT NOT NULL UNIQUE CHECK (length(task_id) BETWEEN 1 AND 255),
  task_name         TEXT NOT NULL,
  payload           BLOB NOT NULL,
  queue             TEXT NOT NULL,
  headers           TEXT NOT NULL,
  state             TEXT NOT NULL CHECK (
    state = 'pending' OR state = 'running' OR state = 'completed' OR state = 'failed' OR state = 'timeout'
    OR state = 'republished'
  ),
  owner             TEXT NOT NULL CHECK (owner IN ('broker', 'journal')),
  generation        INTEGER NOT NULL CHECK (generation >= 0),
  attempts          INTEGER NOT NULL CHECK (attempts >= 0),
  version           INTEGER NOT NULL CHECK (version >= 1),
  messaged          INTEGER NOT NULL DEFAULT 0 CHECK (messaged IN (0, 1)),
  awaiting_since    REAL,     -- un-acked and its delivery lost: waits for the redelivery since then
  not_before        REAL,     -- a scheduled start; null when it may run at once
  due_at            REAL,     -- what pending rows are ordered by; null while the row awaits its redelivery
  expires_at        REAL,
  emits             INTEGER NOT NULL DEFAULT 0 CHECK (emits >= 0),  -- messages emitted so far: the next one's position
  incarnation       TEXT NOT NULL DEFAULT '',                      -- who worked on it last
  salvaged          INTEGER NOT NULL DEFAULT 0 CHECK (salvaged IN (0, 1)),
  created_at        REAL NOT NULL,
  started_at        REAL,
  ended_at          REAL,
  last_activity     REAL NOT NULL,
  result            BLOB,
  error             TEXT,
  sync_status       TEXT NOT NULL DEFAULT 'pending' CHECK (
    sync_status = 'pending' OR sync_status = 'synced' OR sync_status = 'parked'
  ),
  sync_retry_count  INTEGER NOT NULL DEFAULT 0,
  last_sync_attempt REAL,
  sync_error        TEXT,
  checksum          INTEGER NOT NULL,
  -- Names that queries of the first deployment use.
  status             TEXT GENERATED ALWAYS AS (state) VIRTUAL,
  completed_at       REAL GENERATED ALWAYS AS (ended_at) VIRTUAL,
  synced_to_postgres INTEGER GENERATED ALWAYS AS (sync_status = 'synced') VIRTUAL
) STRICT;

-- The id stands before the name, so that rows due at one moment come in the order of their arrival without a sort.
CREATE INDEX task_due ON task_wal (due_at, id, task_name) WHERE state = 'pending';
CREATE INDEX task_expiring ON task_wal (expires_at) WHERE state = 'pending' AND expires_at IS NOT NULL;
CREATE INDEX task_running ON task_wal (started_at) WHERE state = 'running';
CREATE INDEX task_unacked ON task_wal (awaiting_since) WHERE owner = 'broker' AND state IN ('pending', 'running');
-- Each ended row stands in exactly one of the next four, which together serve sync and prune.
CREATE INDEX task_unsynced ON task_wal (ended_at)
WHERE sync_status = 'pending' AND (state = 'completed' OR state = 'failed' OR state = 'timeout');
CREATE INDEX task_synced ON task_wal (ended_at)
WHERE sync_status = 'synced' AND (state = 'completed' OR state = 'failed' OR state = 'timeout');
CREATE INDEX task_parked ON task_wal (ended_at)
WHERE sync_status = 'parked' AND (state = 'completed' OR state = 'failed' OR state = 'timeout');
CREATE INDEX task_republished ON task_wal (ended_at) WHERE state = 'republished';

-- The triggers refuse by FAIL, not ABORT: they act before their row is written, so in a statement that writes one row
-- there is nothing to undo, and SQLite need not copy each page for it. Statements on many rows stand in a savepoint.
CREATE TRIGGER task_born_pending BEFORE INSERT ON task_wal
WHEN NEW.state <> 'pending' AND NEW.salvaged = 0
BEGIN
  SELECT RAISE(FAIL, 'illegal state: a task is accepted as pending');
END;

CREATE TRIGGER task_legal_change BEFORE UPDATE OF state ON task_wal
WHEN OLD.state <> NEW.state AND NOT (
  (OLD.state = 'pending' AND (
    NEW.state = 'running' OR NEW.state = 'failed' OR NEW.state = 'timeout' OR NEW.state = 'republished'
  ))
  OR (OLD.state = 'running' AND (
    NEW.state = 'pending' OR NEW.state = 'completed' OR NEW.state = 'failed' OR NEW.state = 'timeout'
    OR NEW.state = 'republished'
  ))
  OR ((OLD.state = 'republished' OR OLD.state = 'failed' OR OLD.state = 'timeout') AND NEW.state = 'pending')
)
BEGIN
  SELECT RAISE(FAIL, 'illegal state: no such change of a task exists');
END;

-- A completed task never changes again; only what its report owes is still written, which does not ask this trigger.
CREATE TRIGGER task_completed_stays BEFORE UPDATE OF task_id, payload, result, generation, attempts, ended_at ON task_wal
WHEN OLD.state = 'completed' AND (
  OLD.task_id IS NOT NEW.task_id OR OLD.payload IS NOT NEW.payload OR OLD.result IS NOT NEW.result
  OR OLD.generation IS NOT NEW.generation OR OLD.attempts IS NOT NEW.attempts OR OLD.ended_at IS NOT NEW.ended_at
)
BEGIN
  SELECT RAISE(FAIL, 'illegal state: a completed task never changes again');
END;

-- The retry schedule by the name the first deployment gave it.
CREATE VIEW retry_queue AS
SELECT task_id, attempts AS retry_count, error, not_before AS next_retry_at
FROM task_wal WHERE state = 'pending' AND not_before IS NOT NULL;

CREATE TABLE steps (
  task_id    TEXT NOT NULL,
  name       TEXT NOT NULL,
  result     BLOB NOT NULL,
  created_at REAL NOT NULL,
  checksum   INTEGER NOT NULL,
  PRIMARY KEY (task_id, name)
) STRICT;

CREATE TABLE outbox (
  id          INTEGER PRIMARY KEY,
  message_id  TEXT NOT NULL UNIQUE,
  task_id     TEXT NOT NULL,
  kind        TEXT NOT NULL CHECK (kind = 'emit' OR kind = 'dead-letter' OR kind = 'republish' OR kind = 'reject'),
  exchange    TEXT NOT NULL,
  routing_key TEXT NOT NULL,
  body        BLOB NOT NULL,
  headers     TEXT NOT NULL,
  status      TEXT NOT NULL CHECK (status = 'unsent' OR status = 'sent' OR status = 'parked'),
  attempts    INTEGER NOT NULL DEFAULT 0,
  next_at     REAL NOT NULL DEFAULT 0,
  created_at  REAL NOT NULL,
  sent_at     REAL,
  error       TEXT,
  checksum    INTEGER NOT NULL
) STRICT;

CREATE INDEX outbox_unsent ON outbox (id) WHERE status = 'unsent';
CREATE INDEX outbox_parked ON outbox (id) WHERE status = 'parked';
CREATE INDEX outbox_of_task ON outbox (task_id, status);
CREATE INDEX outbox_sent_rejects ON outbox (sent_at) WHERE status = 'sent' AND kind = 'reject';

-- Answers of model providers, by a key made of content, so that a repeated question costs nothing.
CREATE TABLE gpt_cache (
  key        TEXT PRIMARY KEY,
  model      TEXT NOT NULL,
  response   BLOB NOT NULL,
  created_at REAL NOT NULL,
  checksum   INTEGER NOT NULL
) STRICT;

CREATE INDEX gpt_cache_age ON gpt_cache (created_at);
