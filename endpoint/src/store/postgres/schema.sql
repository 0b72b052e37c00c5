-- Version 1. What a row means is in JSON, which only the program reads; the columns beside it are what rows are found, sorted and
-- counted by.
CREATE TABLE endpoints (
    name text PRIMARY KEY,
    number bigint GENERATED ALWAYS AS IDENTITY,
    paused boolean NOT NULL DEFAULT false
);
-- Numbers of jobs and places in the queue. Without a cache: a place that is given later is behind.
CREATE SEQUENCE numbers CACHE 1;
CREATE TABLE jobs (
    number bigint PRIMARY KEY,
    endpoint text NOT NULL,
    id text NOT NULL,
    status text NOT NULL,
    waiting boolean NOT NULL,
    untaken boolean NOT NULL,
    low boolean NOT NULL,
    round bigint NOT NULL,
    place bigint NOT NULL,
    share text,
    submitted bigint NOT NULL,
    run_time bigint NOT NULL,
    holder text,
    due bigint NOT NULL,
    webhook_owner text,
    given_up boolean NOT NULL,
    idempotency bytea,
    batch text,
    record text NOT NULL,
    UNIQUE (endpoint, id)
) WITH (fillfactor = 70, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX jobs_waiting ON jobs (endpoint, low, round, place) WHERE waiting;
-- Where clients take turns: how far each is. Empty elsewhere, where all jobs are of round 0.
CREATE INDEX jobs_rounds ON jobs (endpoint, low, round) WHERE waiting AND round > 0;
CREATE INDEX jobs_shares ON jobs (endpoint, low, share, round) WHERE waiting AND round > 0;
CREATE INDEX jobs_held ON jobs (endpoint, holder) WHERE holder IS NOT NULL;
CREATE INDEX jobs_due ON jobs (due);
CREATE INDEX jobs_by_age ON jobs (endpoint, number);
CREATE INDEX jobs_reported ON jobs (webhook_owner) WHERE webhook_owner IS NOT NULL;
-- What operators look for.
CREATE INDEX jobs_failed ON jobs (endpoint, number) WHERE status IN ('FAILED', 'TIMED_OUT');
CREATE INDEX jobs_given_up ON jobs (endpoint, number) WHERE given_up;
-- A submission that is repeated is one job.
CREATE UNIQUE INDEX jobs_by_key ON jobs (endpoint, idempotency) WHERE idempotency IS NOT NULL;
CREATE INDEX jobs_of_batch ON jobs (endpoint, batch, number) WHERE batch IS NOT NULL;
-- One row for each batch, with the counts of its jobs.
CREATE TABLE batches (
    number bigint PRIMARY KEY,
    endpoint text NOT NULL,
    id text NOT NULL,
    name text,
    state text NOT NULL,
    created bigint NOT NULL,
    expires bigint,
    waiting bigint NOT NULL,
    in_progress bigint NOT NULL,
    completed bigint NOT NULL,
    failed bigint NOT NULL,
    cancelled bigint NOT NULL,
    UNIQUE (endpoint, id)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX batches_by_age ON batches (endpoint, number);
CREATE INDEX batches_due ON batches (expires) WHERE expires IS NOT NULL;
-- Byte for byte as they were received: text, not jsonb.
CREATE TABLE payloads (
    job bigint NOT NULL,
    part smallint NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (job, part)
);
-- Where streams stand: their items are apart from the jobs too, so that an item does not write the job again.
CREATE TABLE streams (
    job bigint PRIMARY KEY,
    first_item bigint NOT NULL,
    next_item bigint NOT NULL,
    unread_bytes bigint NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0);
CREATE TABLE chunks (
    job bigint NOT NULL,
    n bigint NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (job, n)
) WITH (autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0);
CREATE TABLE workers (
    endpoint text NOT NULL,
    id text NOT NULL,
    forget_at bigint NOT NULL,
    has_stops boolean NOT NULL,
    record text NOT NULL,
    PRIMARY KEY (endpoint, id)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0);
-- Which replica holds how many polls of a worker open: when it dies, they are closed.
CREATE TABLE polls (
    endpoint text NOT NULL,
    worker text NOT NULL,
    replica text NOT NULL,
    jobs integer NOT NULL,
    stops integer NOT NULL,
    PRIMARY KEY (endpoint, worker, replica)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0);
-- One row for each lane of each replica, so that no two transactions wait for the same one. The token is that of its last transaction.
CREATE TABLE counters (
    endpoint text NOT NULL,
    replica text NOT NULL,
    lane smallint NOT NULL,
    token text NOT NULL,
    jobs bigint NOT NULL,
    bytes bigint NOT NULL,
    streamed bigint NOT NULL,
    in_queue bigint NOT NULL,
    in_progress bigint NOT NULL,
    completed bigint NOT NULL,
    failed bigint NOT NULL,
    retried bigint NOT NULL,
    -- The latest rounds that workers have got jobs of.
    served bigint NOT NULL,
    served_low bigint NOT NULL,
    PRIMARY KEY (endpoint, replica, lane)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0);
CREATE TABLE replicas (
    id text PRIMARY KEY,
    host text NOT NULL,
    seen bigint NOT NULL
);
-- Which replica does what one alone must do for an endpoint: adding workers, sending late jobs elsewhere.
CREATE TABLE turns (
    endpoint text NOT NULL,
    task text NOT NULL,
    replica text NOT NULL,
    until bigint NOT NULL,
    PRIMARY KEY (endpoint, task)
);
-- The last second at which some replica could write.
CREATE TABLE beat (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    at bigint NOT NULL
);
