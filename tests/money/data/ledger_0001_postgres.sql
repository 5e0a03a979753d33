-- The ledger of schema 0001 on Postgres, as pg_dump told it.

CREATE FUNCTION public.entries_append_only() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'money entries are append-only'; END $$;

CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);

CREATE TABLE public.attempts (
    attempt_id text NOT NULL,
    job_id text NOT NULL,
    backend text NOT NULL,
    target text NOT NULL,
    handle text,
    state text NOT NULL,
    code text,
    intended_ms bigint NOT NULL,
    sent_ms bigint,
    accepted_ms bigint,
    running_ms bigint,
    unknown_ms bigint,
    ended_ms bigint
);

CREATE TABLE public.breakers (
    backend text NOT NULL,
    version bigint NOT NULL,
    state json NOT NULL
);

CREATE TABLE public.budgets (
    scope text NOT NULL,
    name text NOT NULL,
    period text NOT NULL,
    cap bigint NOT NULL,
    set_ms bigint NOT NULL
);

CREATE TABLE public.decisions (
    id bigint NOT NULL,
    job_id text NOT NULL,
    at_ms bigint NOT NULL,
    record json NOT NULL
);

CREATE SEQUENCE public.decisions_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE public.decisions_id_seq OWNED BY public.decisions.id;

CREATE TABLE public.entries (
    id bigint NOT NULL,
    attempt_id text NOT NULL,
    kind text NOT NULL,
    reference text NOT NULL,
    reserved bigint NOT NULL,
    spent bigint NOT NULL,
    at_ms bigint NOT NULL,
    booked_ms bigint NOT NULL,
    catalogue text NOT NULL,
    certainty text NOT NULL,
    backend text NOT NULL,
    project text,
    "user" text,
    template text,
    CONSTRAINT entries_certainty CHECK ((certainty = ANY (ARRAY['known'::text, 'estimated'::text, 'unknown'::text]))),
    CONSTRAINT entries_kind CHECK ((((kind = 'reserve'::text) AND (reserved >= 0) AND (spent = 0)) OR ((kind = 'settle'::text) AND (reserved <= 0) AND (spent >= 0)) OR ((kind = 'release'::text) AND (reserved <= 0) AND (spent = 0)) OR ((kind = 'adjust'::text) AND (reserved = 0) AND (reference <> ''::text))))
);

CREATE SEQUENCE public.entries_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE public.entries_id_seq OWNED BY public.entries.id;

CREATE TABLE public.jobs (
    job_id text NOT NULL,
    created_ms bigint NOT NULL,
    request_sha256 text NOT NULL,
    need json NOT NULL,
    project text,
    "user" text,
    template text,
    backends json NOT NULL,
    policy text NOT NULL,
    outcome text,
    ended_ms bigint,
    summary json
);

ALTER TABLE ONLY public.decisions ALTER COLUMN id SET DEFAULT nextval('public.decisions_id_seq'::regclass);

ALTER TABLE ONLY public.entries ALTER COLUMN id SET DEFAULT nextval('public.entries_id_seq'::regclass);

ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);

ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT attempts_pkey PRIMARY KEY (attempt_id);

ALTER TABLE ONLY public.breakers
    ADD CONSTRAINT breakers_pkey PRIMARY KEY (backend);

ALTER TABLE ONLY public.budgets
    ADD CONSTRAINT budgets_pkey PRIMARY KEY (scope, name, period);

ALTER TABLE ONLY public.decisions
    ADD CONSTRAINT decisions_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.entries
    ADD CONSTRAINT entries_once UNIQUE (attempt_id, kind, reference);

ALTER TABLE ONLY public.entries
    ADD CONSTRAINT entries_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_pkey PRIMARY KEY (job_id);

CREATE INDEX attempts_job ON public.attempts USING btree (job_id);

CREATE INDEX attempts_state ON public.attempts USING btree (state);

CREATE INDEX decisions_job ON public.decisions USING btree (job_id);

CREATE INDEX entries_all ON public.entries USING btree (booked_ms, reserved, spent);

CREATE INDEX entries_backend ON public.entries USING btree (backend, booked_ms, reserved, spent);

CREATE INDEX entries_project ON public.entries USING btree (project, booked_ms, reserved, spent);

CREATE INDEX entries_user ON public.entries USING btree ("user", booked_ms, reserved, spent);

CREATE INDEX jobs_created ON public.jobs USING btree (created_ms);

CREATE TRIGGER entries_no_change BEFORE DELETE OR UPDATE OR TRUNCATE ON public.entries FOR EACH STATEMENT EXECUTE FUNCTION public.entries_append_only();

ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT attempts_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(job_id);

ALTER TABLE ONLY public.decisions
    ADD CONSTRAINT decisions_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(job_id);

ALTER TABLE ONLY public.entries
    ADD CONSTRAINT entries_attempt_id_fkey FOREIGN KEY (attempt_id) REFERENCES public.attempts(attempt_id);
