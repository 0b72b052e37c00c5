-- Format 7. Times are milliseconds since 1970, lengths of time are milliseconds.

CREATE TABLE endpoints (
    key INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    last_number INTEGER NOT NULL DEFAULT 0,
    completed INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    retried INTEGER NOT NULL DEFAULT 0,
    paused INTEGER NOT NULL DEFAULT 0
) STRICT;

-- `key` is the endpoint's key and the job's number in one, so that new jobs are added at the end of every table.
CREATE TABLE jobs (
    key INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    place INTEGER NOT NULL,
    low_priority INTEGER NOT NULL,
    state TEXT NOT NULL,
    submitted INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    retention INTEGER NOT NULL,
    -- 0 when the client set none.
    execution_timeout INTEGER NOT NULL,
    webhook TEXT,
    webhook_due INTEGER NOT NULL,
    traceparent TEXT,
    attempt INTEGER NOT NULL,
    retries INTEGER NOT NULL,
    delay INTEGER,
    execution INTEGER,
    worker TEXT,
    error TEXT,
    cancel_told INTEGER NOT NULL,
    input_bytes INTEGER NOT NULL,
    s3_config_bytes INTEGER,
    output_bytes INTEGER,
    -- Only while a worker has the job.
    poller TEXT,
    holder TEXT,
    since INTEGER,
    execution_deadline INTEGER,
    leased INTEGER,
    -- Only after its end.
    forget_at INTEGER,
    -- JSON text in the worker's words.
    cost TEXT,
    -- Only if its webhook was given up.
    webhook_given_up INTEGER,
    webhook_error TEXT,
    -- The batch's id.
    batch TEXT,
    -- How long the job may live; in files of earlier versions `expires` less `submitted`.
    ttl INTEGER,
    -- The id of the job at the endpoint that runs it, if that is another one. `execution_deadline` is missing until it has begun there.
    far_id TEXT,
    -- SHA-256, when the client may repeat the submission.
    idempotency_key BLOB,
    body_digest BLOB,
    -- Whose turn the job uses in the queue.
    share TEXT,
    -- How many hand-overs to another endpoint are over, when the present one was first tried, and the id there of a job that must still be
    -- cancelled there.
    handovers INTEGER NOT NULL DEFAULT 0,
    handover_since INTEGER,
    far_cancel TEXT
) STRICT;

CREATE TABLE batches (
    key INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    name TEXT,
    state TEXT NOT NULL,
    created INTEGER NOT NULL,
    -- Only of a draft, and after the end of the last request.
    expires INTEGER
) STRICT;

-- JSON text as it was received. Apart from the jobs, so that a change of state does not write it again.
CREATE TABLE inputs (key INTEGER PRIMARY KEY, body TEXT NOT NULL) STRICT;
CREATE TABLE s3_configs (key INTEGER PRIMARY KEY, body TEXT NOT NULL) STRICT;
CREATE TABLE outputs (key INTEGER PRIMARY KEY, body TEXT NOT NULL) STRICT;

-- Unread stream items. Renaming the table would be another format.
CREATE TABLE chunks (
    key INTEGER NOT NULL,
    number INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (key, number)
) STRICT, WITHOUT ROWID;
