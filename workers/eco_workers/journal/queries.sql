-- The journal's statements by name. A line `-- name:` opens a statement; the comment lines behind it say what it is for.
-- Columns stand in the order of the NamedTuples in records.py. What writes one row of a task says OR FAIL: schema.sql says
-- why, and a row that is refused is refused before anything is written.

-- name: begin
-- Takes the write lock at once, so a group never fails half way for want of it.
BEGIN IMMEDIATE;

-- name: commit
COMMIT;

-- name: rollback
ROLLBACK;

-- name: savepoint
-- Each operation of a group stands in its own, so one that fails takes nothing else with it.
SAVEPOINT operation;

-- name: release
RELEASE operation;

-- name: rollback_operation
ROLLBACK TO operation;

-- name: ledger_read
SELECT epoch, checksum, completed, failed, timeout, republished, unsynced, sync_parked, outbox_unsent, outbox_parked
FROM ledger WHERE only_row = 1;

-- name: ledger_write
UPDATE ledger SET epoch = ?, checksum = ?, completed = ?, failed = ?, timeout = ?, republished = ?, unsynced = ?,
  sync_parked = ?, outbox_unsent = ?, outbox_parked = ? WHERE only_row = 1;

-- name: ledger_create
INSERT INTO ledger (only_row, epoch, checksum) VALUES (1, 0, ?);

-- name: epoch
-- Read by every group right after BEGIN: a higher one means that another process has taken the journal over.
SELECT epoch FROM ledger WHERE only_row = 1;

-- name: meta_read
SELECT value, checksum FROM meta WHERE key = ?;

-- name: meta_write
INSERT INTO meta (key, value, checksum) VALUES (?, ?, ?)
ON CONFLICT (key) DO UPDATE SET value = excluded.value, checksum = excluded.checksum;

-- name: task_load
SELECT id, checksum, payload, result, task_id, task_name, queue, headers, state, owner, generation, attempts, version,
  messaged, awaiting_since, not_before, due_at, expires_at, emits, incarnation, salvaged, created_at, started_at,
  ended_at, last_activity, error, sync_status, sync_retry_count, last_sync_attempt, sync_error
FROM task_wal WHERE task_id = ?;

-- name: task_insert
-- A task that has a row already is left alone. No RETURNING: SQLite makes a temporary table for it, each time.
INSERT OR FAIL INTO task_wal (id, checksum, payload, result, task_id, task_name, queue, headers, state, owner, generation,
  attempts, version, messaged, awaiting_since, not_before, due_at, expires_at, emits, incarnation, salvaged, created_at,
  started_at, ended_at, last_activity, error, sync_status, sync_retry_count, last_sync_attempt, sync_error)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (task_id) DO NOTHING;

-- name: task_insert_wide
-- The same for as many rows as the caller has marks for.
INSERT OR FAIL INTO task_wal (id, checksum, payload, result, task_id, task_name, queue, headers, state, owner, generation,
  attempts, version, messaged, awaiting_since, not_before, due_at, expires_at, emits, incarnation, salvaged, created_at,
  started_at, ended_at, last_activity, error, sync_status, sync_retry_count, last_sync_attempt, sync_error)
VALUES {rows}
ON CONFLICT (task_id) DO NOTHING;

-- name: task_highest
SELECT coalesce(max(id), 0) FROM task_wal;

-- name: task_above
-- Rows added since `task_highest`: a new row's id is above all others.
SELECT task_id FROM task_wal WHERE id > ?;

-- name: task_store
-- Everything that changes while a row lives. The payload and its like are not named, so SQLite leaves them alone.
UPDATE OR FAIL task_wal SET checksum = ?, result = ?, state = ?, owner = ?, generation = ?, attempts = ?, version = ?,
  messaged = ?, awaiting_since = ?, not_before = ?, due_at = ?, emits = ?, incarnation = ?, started_at = ?,
  ended_at = ?, last_activity = ?, error = ?, sync_status = ?, sync_retry_count = ?, last_sync_attempt = ?,
  sync_error = ?
WHERE id = ?;

-- name: task_start
-- What `task_store` writes of a row that begins to run; the rest of it stays.
UPDATE OR FAIL task_wal SET checksum = ?, state = 'running', attempts = ?, version = ?, incarnation = ?, started_at = ?,
  last_activity = ? WHERE id = ?;

-- name: task_start_wide
WITH started (checksum, attempts, version, incarnation, started_at, last_activity, id) AS (VALUES {rows})
UPDATE OR FAIL task_wal SET checksum = started.checksum, state = 'running', attempts = started.attempts,
  version = started.version, incarnation = started.incarnation, started_at = started.started_at,
  last_activity = started.last_activity FROM started WHERE task_wal.id = started.id;

-- name: task_complete
-- What `task_store` writes of a running row that completes; the rest of it stays.
UPDATE OR FAIL task_wal SET checksum = ?, result = ?, state = 'completed', owner = 'journal', version = ?, awaiting_since = NULL,
  due_at = NULL, emits = ?, ended_at = ?, last_activity = ?, error = NULL WHERE id = ?;

-- name: task_complete_wide
WITH completed (checksum, result, version, emits, ended_at, last_activity, id) AS (VALUES {rows})
UPDATE OR FAIL task_wal SET checksum = completed.checksum, result = completed.result, state = 'completed',
  owner = 'journal', version = completed.version, awaiting_since = NULL, due_at = NULL, emits = completed.emits,
  ended_at = completed.ended_at, last_activity = completed.last_activity, error = NULL
FROM completed WHERE task_wal.id = completed.id;

-- name: task_mark_synced
-- A whole batch of reports; records.py says why their checksums need no other value.
UPDATE task_wal SET sync_status = 'synced', last_sync_attempt = ?1, sync_error = NULL, checksum = (checksum & ?2) | ?3
WHERE id IN (
  SELECT t.id FROM json_each(?4) AS wanted JOIN task_wal AS t ON t.task_id = wanted.key
  WHERE t.version = wanted.value AND t.state IN ('completed', 'failed', 'timeout') AND t.sync_status = ?5
);

-- name: task_replace
-- A task that comes back with a higher generation may bring another payload.
UPDATE OR FAIL task_wal SET checksum = ?, payload = ?, result = ?, task_id = ?, task_name = ?, queue = ?, headers = ?,
  state = ?, owner = ?, generation = ?, attempts = ?, version = ?, messaged = ?, awaiting_since = ?, not_before = ?,
  due_at = ?, expires_at = ?, emits = ?, incarnation = ?, salvaged = ?, created_at = ?, started_at = ?, ended_at = ?,
  last_activity = ?, error = ?, sync_status = ?, sync_retry_count = ?, last_sync_attempt = ?, sync_error = ?
WHERE id = ?;

-- name: task_delete
DELETE FROM task_wal WHERE id = ?;

-- name: task_due
-- The names are filled in by the caller, as many as it knows; the index task_due covers them.
SELECT {task} FROM task_wal WHERE state = 'pending' AND due_at <= ? AND task_name IN ({names}) ORDER BY due_at, id LIMIT ?;

-- name: task_next_due
SELECT min(due_at) FROM task_wal WHERE state = 'pending' AND due_at > ?;

-- name: task_expired
SELECT {task} FROM task_wal WHERE state = 'pending' AND expires_at IS NOT NULL AND expires_at <= ?
ORDER BY expires_at LIMIT ?;

-- name: task_next_expiry
SELECT min(expires_at) FROM task_wal WHERE state = 'pending' AND expires_at IS NOT NULL;

-- name: task_due_too_late
SELECT {task} FROM task_wal WHERE state = 'pending' AND due_at > ?
AND (not_before IS NULL OR not_before > ? OR (attempts > 0 AND last_activity > ?)) ORDER BY due_at LIMIT ?;

-- name: task_running
SELECT {task} FROM task_wal WHERE state = 'running' ORDER BY started_at LIMIT ?;

-- name: task_held_unacked
SELECT {task} FROM task_wal WHERE owner = 'broker' AND state IN ('pending', 'running') AND awaiting_since IS NULL LIMIT ?;

-- name: task_awaiting_since
SELECT {task} FROM task_wal
WHERE owner = 'broker' AND state IN ('pending', 'running') AND awaiting_since <= ? AND state = 'pending'
ORDER BY awaiting_since LIMIT ?;

-- name: task_pending
SELECT {task} FROM task_wal WHERE state = 'pending' ORDER BY due_at LIMIT ?;

-- name: task_created_before
SELECT {task} FROM task_wal WHERE state = 'pending' AND not_before IS NULL AND created_at < ? LIMIT ?;

-- name: task_unsynced
SELECT {task} FROM task_wal WHERE sync_status = 'pending' AND {reported} AND ended_at >= ?
ORDER BY ended_at LIMIT ?;

-- name: task_parked
SELECT {task} FROM task_wal WHERE sync_status = 'parked' AND {reported}
ORDER BY ended_at LIMIT ?;

-- name: prunable_synced
SELECT {task} FROM task_wal WHERE sync_status = 'synced' AND {reported} AND ended_at <= ?
  AND NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.task_id = task_wal.task_id AND outbox.status IN ('unsent', 'parked'))
ORDER BY ended_at LIMIT ?;

-- name: prunable_unreported
-- Only for a journal that owes no reports.
SELECT {task} FROM task_wal WHERE sync_status = 'pending' AND {reported} AND ended_at <= ?
  AND NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.task_id = task_wal.task_id AND outbox.status IN ('unsent', 'parked'))
ORDER BY ended_at LIMIT ?;

-- name: prunable_republished
SELECT {task} FROM task_wal WHERE state = 'republished' AND ended_at <= ?
  AND NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.task_id = task_wal.task_id AND outbox.status IN ('unsent', 'parked'))
ORDER BY ended_at LIMIT ?;

-- name: steps_of_task
SELECT checksum, result, task_id, name, created_at FROM steps WHERE task_id = ?;

-- name: step_put
INSERT INTO steps (checksum, result, task_id, name, created_at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (task_id, name) DO UPDATE SET checksum = excluded.checksum, result = excluded.result,
  created_at = excluded.created_at;

-- name: steps_drop
DELETE FROM steps WHERE task_id = ?;

-- name: outbox_add
-- The message id is made of what the message is about: one that is there already is the same message.
INSERT INTO outbox (id, checksum, body, message_id, task_id, kind, exchange, routing_key, headers, status, attempts,
  next_at, created_at, sent_at, error)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (message_id) DO NOTHING;

-- name: outbox_row
SELECT {outbox} FROM outbox WHERE id = ?;

-- name: outbox_unsent
-- What pauses for longer than any pause lasts was put off before the clock was set back.
SELECT {outbox} FROM outbox WHERE status = 'unsent' AND NOT next_at BETWEEN ? AND ?
  AND routing_key NOT IN (SELECT value FROM json_each(?)) ORDER BY id LIMIT ?;

-- name: outbox_parked
SELECT {outbox} FROM outbox WHERE status = 'parked' ORDER BY id LIMIT ?;

-- name: outbox_store
UPDATE outbox SET checksum = ?, status = ?, attempts = ?, next_at = ?, sent_at = ?, error = ? WHERE id = ?;

-- name: outbox_drop_sent
DELETE FROM outbox WHERE task_id = ? AND status = 'sent';

-- name: rejects_prune
DELETE FROM outbox WHERE id IN
  (SELECT id FROM outbox WHERE status = 'sent' AND kind = 'reject' AND sent_at <= ? ORDER BY sent_at LIMIT ?);

-- name: cache_read
SELECT checksum, response, key, model, created_at FROM gpt_cache WHERE key = ?;

-- name: cache_put
INSERT INTO gpt_cache (checksum, response, key, model, created_at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET checksum = excluded.checksum, response = excluded.response, model = excluded.model,
  created_at = excluded.created_at;

-- name: cache_prune
DELETE FROM gpt_cache WHERE key IN (SELECT key FROM gpt_cache WHERE created_at <= ? ORDER BY created_at LIMIT ?);

-- name: backlog_pending
SELECT count(*) FROM task_wal INDEXED BY task_due WHERE state = 'pending';

-- name: backlog_due
SELECT count(*), min(due_at) FROM task_wal INDEXED BY task_due WHERE state = 'pending' AND due_at <= ?;

-- name: backlog_unknown
SELECT count(*) FROM task_wal INDEXED BY task_due WHERE state = 'pending' AND task_name NOT IN ({names});

-- name: backlog_running
SELECT count(*), min(started_at) FROM task_wal INDEXED BY task_running WHERE state = 'running';

-- name: oldest_unsynced
SELECT min(ended_at) FROM task_wal INDEXED BY task_unsynced
WHERE sync_status = 'pending' AND {reported};

-- name: oldest_unsent
SELECT created_at FROM outbox WHERE status = 'unsent' ORDER BY id LIMIT 1;

-- name: all_tasks
-- For verification: every row, in slices by id.
SELECT {task} FROM task_wal WHERE id > ? ORDER BY id LIMIT ?;

-- name: all_outbox
SELECT {outbox} FROM outbox WHERE id > ? ORDER BY id LIMIT ?;

-- name: count_ended
SELECT state, sync_status, count(*) FROM task_wal WHERE state NOT IN ('pending', 'running') GROUP BY state, sync_status;

-- name: count_outbox
SELECT status, count(*) FROM outbox GROUP BY status;
