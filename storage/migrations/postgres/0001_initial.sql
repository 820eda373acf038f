-- The records as in DuckDB (same columns, same meaning), append-only, and three tables that tell whose turn it is: they change,
-- and can be made again from the records (see postgres_places.py). JSON is text where DuckDB has text: it comes back byte for byte.

-- The last seq of each table. Whoever appends holds the row until COMMIT: seq is gapless and its order is that of the commits,
-- so a reader that goes on after the last seq it has seen never skips a row.
CREATE TABLE counters (
    name text PRIMARY KEY,
    last bigint NOT NULL
) WITH (fillfactor = 50);
INSERT INTO counters SELECT name, 0 FROM unnest(ARRAY[
    'annotators', 'credentials', 'events', 'judgments', 'leases', 'policies', 'prompts', 'renewals', 'responses', 'rounds',
    'tasks', 'tokens', 'users']) AS name;

-- What replicas share beside the records: the key that signs cookies.
CREATE TABLE shared_values (
    name text PRIMARY KEY,
    value text NOT NULL
);

CREATE TABLE prompts (
    id text PRIMARY KEY,
    seq bigint NOT NULL UNIQUE,
    messages jsonb NOT NULL,
    split text NOT NULL,
    source text NOT NULL,
    tags text[] NOT NULL,
    created_at timestamptz NOT NULL
);

CREATE TABLE policies (
    id text PRIMARY KEY,
    seq bigint NOT NULL UNIQUE,
    number integer NOT NULL UNIQUE,
    base_model text NOT NULL,
    base_revision text,
    adapter_path text,
    adapter_sha256 text,
    parent_id text,
    round_id text,
    auxiliary text NOT NULL,
    created_at timestamptz NOT NULL
);

CREATE TABLE responses (
    id text PRIMARY KEY,
    seq bigint NOT NULL UNIQUE,
    prompt_id text NOT NULL REFERENCES prompts,
    policy_id text NOT NULL,
    text text NOT NULL,
    token_ids integer[],
    sum_logp double precision,
    finish_reason text NOT NULL,
    sampler text NOT NULL,
    seed bigint,
    role text NOT NULL,
    created_at timestamptz NOT NULL
);

CREATE TABLE tasks (
    id text PRIMARY KEY,
    seq bigint NOT NULL UNIQUE,
    prompt_id text NOT NULL REFERENCES prompts,
    response_1_id text NOT NULL REFERENCES responses,
    response_2_id text NOT NULL REFERENCES responses,
    purpose text NOT NULL CHECK (purpose IN ('label', 'audit', 'gold', 'repeat', 'gate')),
    priority double precision NOT NULL,
    wanted integer NOT NULL CHECK (wanted >= 0),
    selection_rule text NOT NULL,
    selection_score double precision,
    selection_prob double precision NOT NULL CHECK (selection_prob > 0 AND selection_prob <= 1),
    created_at timestamptz NOT NULL,
    more_response_ids text[] NOT NULL
);

CREATE TABLE annotators (
    id text PRIMARY KEY,
    seq bigint NOT NULL UNIQUE,
    handle text NOT NULL UNIQUE,
    kind text NOT NULL CHECK (kind IN ('human', 'simulated', 'imported')),
    created_at timestamptz NOT NULL
);

CREATE TABLE leases (
    id text PRIMARY KEY,
    seq bigint NOT NULL UNIQUE,
    task_id text NOT NULL REFERENCES tasks,
    annotator_id text NOT NULL REFERENCES annotators,
    slot integer NOT NULL,
    response_a_id text NOT NULL,
    response_b_id text NOT NULL,
    issued_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    supersedes text,
    more_response_ids text[] NOT NULL
);

CREATE TABLE renewals (
    lease_id text NOT NULL REFERENCES leases,
    renewed_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    seq bigint NOT NULL UNIQUE
);

CREATE TABLE judgments (
    id text PRIMARY KEY, -- = lease id
    seq bigint NOT NULL UNIQUE,
    task_id text NOT NULL REFERENCES tasks,
    annotator_id text NOT NULL REFERENCES annotators,
    revision integer NOT NULL,
    prompt_id text NOT NULL,
    response_a_id text NOT NULL,
    response_b_id text NOT NULL,
    verdict text NOT NULL CHECK (verdict IN ('a', 'b', 'tie', 'both_bad', 'skip')),
    strength integer CHECK (strength BETWEEN 0 AND 3),
    aspects text NOT NULL,
    rationale text,
    reasons text[] NOT NULL,
    edited_text text,
    shown_at timestamptz,
    submitted_at timestamptz NOT NULL,
    supersedes text,
    more_response_ids text[] NOT NULL,
    ranking text,
    spans text NOT NULL,
    UNIQUE (task_id, annotator_id, revision)
);
CREATE INDEX judgments_superseded ON judgments (supersedes) WHERE supersedes IS NOT NULL;

CREATE TABLE users (
    id text PRIMARY KEY,
    seq bigint NOT NULL UNIQUE,
    name text NOT NULL UNIQUE,
    role text NOT NULL CHECK (role IN ('annotator', 'researcher', 'admin')),
    annotator_id text,
    created_at timestamptz NOT NULL
);

CREATE TABLE tokens (
    id text PRIMARY KEY,
    seq bigint NOT NULL UNIQUE,
    sha256 text NOT NULL UNIQUE,
    kind text NOT NULL CHECK (kind IN ('bearer', 'signin', 'session')),
    name text NOT NULL,
    scope text NOT NULL CHECK (scope IN ('label', 'research', 'admin')),
    user_id text,
    annotator_id text,
    expires_at timestamptz,
    created_at timestamptz NOT NULL
);

CREATE TABLE credentials (
    id text PRIMARY KEY,
    seq bigint NOT NULL UNIQUE,
    user_id text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('password', 'oidc')),
    secret text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL
);

CREATE TABLE rounds (
    id text PRIMARY KEY,
    seq bigint NOT NULL UNIQUE,
    number integer NOT NULL UNIQUE,
    kind text NOT NULL CHECK (kind IN ('round', 'fit', 'generate', 'evaluate')),
    parent_policy_id text NOT NULL,
    new_policy_id text,
    job_dir text NOT NULL,
    settings text NOT NULL,
    created_at timestamptz NOT NULL
);

CREATE TABLE events (
    id text PRIMARY KEY,
    seq bigint NOT NULL UNIQUE,
    "at" timestamptz NOT NULL,
    actor text NOT NULL,
    kind text NOT NULL,
    subject text NOT NULL,
    data text NOT NULL
);
CREATE INDEX events_subject ON events (subject, kind);

-- One row per task; free_at: when a place of it is or gets free, infinity when all are filled. Training pairs (gold) are given
-- to everybody and are never in this order: their free_at is infinity. Whoever changes places of a task locks its row here first.
CREATE TABLE queue (
    task_id text PRIMARY KEY REFERENCES tasks,
    seq bigint NOT NULL,
    priority double precision NOT NULL,
    purpose text NOT NULL,
    reserved boolean NOT NULL, -- nobody else is wanted: a live pair, whose author holds its only slot
    closed boolean NOT NULL,
    free_at timestamptz NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX queue_order ON queue (priority DESC, seq) WHERE free_at < 'infinity' AND NOT closed;
CREATE INDEX queue_gold ON queue (seq) WHERE purpose = 'gold';

-- The places of a task. free_at: -infinity is free, infinity is filled, a time is held by the lease until then.
-- lease_id: who holds or filled it; NULL where it is free, or filled by a judgment made elsewhere.
CREATE TABLE slots (
    task_id text NOT NULL REFERENCES tasks,
    slot integer NOT NULL,
    gold boolean NOT NULL,
    lease_id text,
    annotator_id text,
    free_at timestamptz NOT NULL,
    PRIMARY KEY (task_id, slot)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
CREATE UNIQUE INDEX slots_lease ON slots (lease_id) WHERE lease_id IS NOT NULL;
CREATE INDEX slots_held ON slots (annotator_id, free_at) WHERE free_at > '-infinity' AND free_at < 'infinity';
CREATE INDEX slots_taken ON slots (free_at) WHERE lease_id IS NOT NULL AND NOT gold;

-- Judgments of a task by an annotator: made ever, and whether the last one stands (then it is not given to them again).
CREATE TABLE answered (
    task_id text NOT NULL,
    annotator_id text NOT NULL,
    num_made integer NOT NULL,
    standing boolean NOT NULL,
    PRIMARY KEY (task_id, annotator_id)
) WITH (fillfactor = 90);
