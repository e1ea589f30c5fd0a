-- The newest word on each task, and every report that lost against another one.
--
-- Times are of the worker's clock. `version` counts the changes of the row in its journal: with `shard` and
-- `generation` it says which of two reports is the newer one. A task has one row here, whoever ran it.
CREATE TABLE IF NOT EXISTS task_results (
  task_id     text COLLATE "C" PRIMARY KEY,
  name        text NOT NULL,
  queue       text NOT NULL,
  state       text NOT NULL CHECK (state IN ('completed', 'failed', 'timeout')),
  generation  bigint NOT NULL,
  version     bigint NOT NULL,
  attempts    integer NOT NULL,
  payload     jsonb,
  result      jsonb,
  error       text,
  namespace   text NOT NULL,
  worker      text NOT NULL,
  shard       text NOT NULL,
  created_at  timestamptz NOT NULL,
  started_at  timestamptz,
  ended_at    timestamptz NOT NULL,
  synced_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS task_results_ended_at ON task_results (ended_at);
CREATE INDEX IF NOT EXISTS task_results_name_state ON task_results (name, state);

CREATE TABLE IF NOT EXISTS task_history (
  task_id     text COLLATE "C" NOT NULL,
  namespace   text NOT NULL,
  worker      text NOT NULL,
  shard       text NOT NULL,
  generation  bigint NOT NULL,
  version     bigint NOT NULL,
  name        text NOT NULL,
  queue       text NOT NULL,
  state       text NOT NULL,
  attempts    integer NOT NULL,
  payload     jsonb,
  result      jsonb,
  error       text,
  created_at  timestamptz NOT NULL,
  started_at  timestamptz,
  ended_at    timestamptz NOT NULL,
  recorded_at timestamptz NOT NULL DEFAULT now(),
  -- A report is sent again when the outcome of its COMMIT is unknown: one row each, however often.
  PRIMARY KEY (task_id, namespace, worker, shard, generation, version)
);
