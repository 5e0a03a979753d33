-- The ledger of schema 0001 on SQLite, as sqlite_master told it.

CREATE TABLE alembic_version (
  version_num VARCHAR(32) NOT NULL,
  CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
CREATE TABLE jobs (
  job_id TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  request_sha256 TEXT NOT NULL,
  need JSON NOT NULL,
  project TEXT,
  user TEXT,
  template TEXT,
  backends JSON NOT NULL,
  policy TEXT NOT NULL,
  outcome TEXT,
  ended_ms BIGINT,
  summary JSON,
  PRIMARY KEY (job_id)
);
CREATE TABLE decisions (
  id INTEGER NOT NULL,
  job_id TEXT NOT NULL,
  at_ms BIGINT NOT NULL,
  record JSON NOT NULL,
  PRIMARY KEY (id),
  FOREIGN KEY(job_id) REFERENCES jobs (job_id)
);
CREATE TABLE attempts (
  attempt_id TEXT NOT NULL,
  job_id TEXT NOT NULL,
  backend TEXT NOT NULL,
  target TEXT NOT NULL,
  handle TEXT,
  state TEXT NOT NULL,
  code TEXT,
  intended_ms BIGINT NOT NULL,
  sent_ms BIGINT,
  accepted_ms BIGINT,
  running_ms BIGINT,
  unknown_ms BIGINT,
  ended_ms BIGINT,
  PRIMARY KEY (attempt_id),
  FOREIGN KEY(job_id) REFERENCES jobs (job_id)
);
CREATE TABLE entries (
  id INTEGER NOT NULL,
  attempt_id TEXT NOT NULL,
  kind TEXT NOT NULL,
  reference TEXT NOT NULL,
  reserved BIGINT NOT NULL,
  spent BIGINT NOT NULL,
  at_ms BIGINT NOT NULL,
  booked_ms BIGINT NOT NULL,
  catalogue TEXT NOT NULL,
  certainty TEXT NOT NULL,
  backend TEXT NOT NULL,
  project TEXT,
  user TEXT,
  template TEXT,
  PRIMARY KEY (id),
  CONSTRAINT entries_once UNIQUE (attempt_id, kind, reference),
  CONSTRAINT entries_kind CHECK (kind = 'reserve' AND reserved >= 0 AND spent = 0 OR kind = 'settle' AND reserved <= 0 AND spent >= 0 OR kind = 'release' AND reserved <= 0 AND spent = 0 OR kind = 'adjust' AND reserved = 0 AND reference <> ''),
  CONSTRAINT entries_certainty CHECK (certainty IN ('known', 'estimated', 'unknown')),
  FOREIGN KEY(attempt_id) REFERENCES attempts (attempt_id)
);
CREATE TABLE budgets (
  scope TEXT NOT NULL,
  name TEXT NOT NULL,
  period TEXT NOT NULL,
  cap BIGINT NOT NULL,
  set_ms BIGINT NOT NULL,
  PRIMARY KEY (scope, name, period)
);
CREATE TABLE breakers (
  backend TEXT NOT NULL,
  version BIGINT NOT NULL,
  state JSON NOT NULL,
  PRIMARY KEY (backend)
);
CREATE INDEX jobs_created ON jobs (created_ms);
CREATE INDEX decisions_job ON decisions (job_id);
CREATE INDEX attempts_job ON attempts (job_id);
CREATE INDEX attempts_state ON attempts (state);
CREATE INDEX entries_all ON entries (booked_ms, reserved, spent);
CREATE INDEX entries_backend ON entries (backend, booked_ms, reserved, spent);
CREATE INDEX entries_project ON entries (project, booked_ms, reserved, spent);
CREATE INDEX entries_user ON entries (user, booked_ms, reserved, spent);
CREATE TRIGGER entries_no_update BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'money entries are append-only'); END;
CREATE TRIGGER entries_no_delete BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'money entries are append-only'); END;
CREATE TRIGGER entries_no_replace BEFORE INSERT ON entries WHEN EXISTS (SELECT 1 FROM entries AS old WHERE old.id = NEW.id OR (old.attempt_id = NEW.attempt_id AND old.kind = NEW.kind AND old.reference = NEW.reference)) BEGIN SELECT RAISE(ABORT, 'money entries are append-only'); END;
