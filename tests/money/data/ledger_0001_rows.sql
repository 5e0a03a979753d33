-- What a user of schema 0001 had in it: three jobs, one settled, one running, one lost.

INSERT INTO alembic_version VALUES ('0001');

INSERT INTO jobs VALUES
  ('job-1', 1795500000000, 'aa11', '{"kind": "video"}', 'film', 'ada', 'animatediff-v3', '["runpod"]', 'cheapest', 'done', 1795500090000, '{"files": 1}'),
  ('job-2', 1795500100000, 'bb22', '{"kind": "video"}', 'film', NULL, NULL, '[]', 'fastest', NULL, NULL, NULL),
  ('job-3', 1795500200000, 'cc33', '{"kind": "image"}', NULL, 'bob', NULL, '[]', 'cheapest', 'unknown_outcome', 1795500260000, NULL);

INSERT INTO decisions (id, job_id, at_ms, record) VALUES
  (1, 'job-1', 1795500000100, '{"chosen": "runpod", "candidates": []}');

INSERT INTO attempts VALUES
  ('a1', 'job-1', 'runpod', 'ep', 'runpod:ep/r1@a1', 'ended', 'done', 1795500000200, 1795500000300, 1795500000400, 1795500020000, NULL, 1795500090000),
  ('a2', 'job-2', 'runpod', 'ep', 'runpod:ep/r2@a2', 'running', NULL, 1795500100200, 1795500100300, 1795500100400, 1795500120000, NULL, NULL),
  ('a3', 'job-3', 'gemini', 'veo', NULL, 'unknown', 'unknown_outcome', 1795500200200, 1795500200300, NULL, NULL, 1795500260000, NULL);

INSERT INTO entries (attempt_id, kind, reference, reserved, spent, at_ms, booked_ms, catalogue, certainty, backend, project, "user", template) VALUES
  ('a1', 'reserve', '', 50000, 0, 1795500000200, 1795500000200, '2026-11-01', 'estimated', 'runpod', 'film', 'ada', 'animatediff-v3'),
  ('a1', 'settle', '', -50000, 18250, 1795500090000, 1795500000200, '2026-11-01', 'known', 'runpod', 'film', 'ada', 'animatediff-v3'),
  ('a1', 'adjust', 'bill 11', 0, -250, 1795500095000, 1795500000200, '2026-11-01', 'known', 'runpod', 'film', 'ada', 'animatediff-v3'),
  ('a2', 'reserve', '', 40000, 0, 1795500100200, 1795500100200, '2026-11-01', 'estimated', 'runpod', 'film', NULL, NULL),
  ('a3', 'reserve', '', 600000, 0, 1795500200200, 1795500200200, '2026-11-01', 'known', 'gemini', NULL, 'bob', NULL);

INSERT INTO budgets VALUES
  ('all', '', 'total', 700000, 1795400000000),
  ('project', 'film', 'month', 100000, 1795400000000);

INSERT INTO breakers VALUES ('gemini', 3, '{"state": "open", "until": 1795500800.5}');
