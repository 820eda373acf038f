-- Append-only: rows are inserted, never changed. What changes over time is derived from events by the views below.
-- One primary key and at most one UNIQUE per table, no secondary indexes, no foreign keys: the writer checks references.
-- seq is the order of writing, assigned by the writer, gapless within a table.

CREATE TABLE prompts (
    id VARCHAR PRIMARY KEY,
    seq BIGINT NOT NULL,
    messages STRUCT(role VARCHAR, content VARCHAR)[] NOT NULL,
    split VARCHAR NOT NULL,
    source VARCHAR NOT NULL,
    tags VARCHAR[] NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE policies (
    id VARCHAR PRIMARY KEY,
    seq BIGINT NOT NULL,
    number INTEGER NOT NULL UNIQUE,
    base_model VARCHAR NOT NULL,
    base_revision VARCHAR,
    adapter_path VARCHAR,
    adapter_sha256 VARCHAR,
    parent_id VARCHAR,
    round_id VARCHAR,
    auxiliary VARCHAR NOT NULL, -- JSON: policy id -> coefficient
    created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE responses (
    id VARCHAR PRIMARY KEY,
    seq BIGINT NOT NULL,
    prompt_id VARCHAR NOT NULL,
    policy_id VARCHAR NOT NULL,
    text VARCHAR NOT NULL,
    token_ids INTEGER[],
    sum_logp DOUBLE,
    finish_reason VARCHAR NOT NULL,
    sampler VARCHAR NOT NULL, -- JSON; of an imported response: model name and the turns before it
    seed BIGINT,
    role VARCHAR NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE tasks (
    id VARCHAR PRIMARY KEY,
    seq BIGINT NOT NULL,
    prompt_id VARCHAR NOT NULL,
    response_1_id VARCHAR NOT NULL,
    response_2_id VARCHAR NOT NULL,
    purpose VARCHAR NOT NULL CHECK (purpose IN ('label', 'audit', 'gold', 'repeat', 'gate')),
    priority DOUBLE NOT NULL,
    wanted INTEGER NOT NULL CHECK (wanted >= 0),
    selection_rule VARCHAR NOT NULL,
    selection_score DOUBLE,
    selection_prob DOUBLE NOT NULL CHECK (selection_prob > 0 AND selection_prob <= 1),
    created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE annotators (
    id VARCHAR PRIMARY KEY,
    seq BIGINT NOT NULL,
    handle VARCHAR NOT NULL UNIQUE,
    kind VARCHAR NOT NULL CHECK (kind IN ('human', 'simulated', 'imported')),
    created_at TIMESTAMPTZ NOT NULL
);

-- The holder of (task, slot) is the last lease of that slot.
CREATE TABLE leases (
    id VARCHAR PRIMARY KEY,
    seq BIGINT NOT NULL,
    task_id VARCHAR NOT NULL,
    annotator_id VARCHAR NOT NULL,
    slot INTEGER NOT NULL,
    response_a_id VARCHAR NOT NULL, -- a is the response shown first
    response_b_id VARCHAR NOT NULL,
    issued_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL,
    supersedes VARCHAR
);

CREATE TABLE renewals (
    lease_id VARCHAR NOT NULL,
    renewed_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE judgments (
    id VARCHAR PRIMARY KEY, -- = lease id
    seq BIGINT NOT NULL,
    task_id VARCHAR NOT NULL,
    annotator_id VARCHAR NOT NULL,
    revision INTEGER NOT NULL, -- how many judgments of this task this annotator made before
    prompt_id VARCHAR NOT NULL,
    response_a_id VARCHAR NOT NULL,
    response_b_id VARCHAR NOT NULL,
    verdict VARCHAR NOT NULL CHECK (verdict IN ('a', 'b', 'tie', 'both_bad', 'skip')),
    strength INTEGER CHECK (strength BETWEEN 0 AND 3),
    aspects VARCHAR NOT NULL, -- JSON
    rationale VARCHAR,
    reasons VARCHAR[] NOT NULL,
    edited_text VARCHAR,
    shown_at TIMESTAMPTZ,
    submitted_at TIMESTAMPTZ NOT NULL,
    supersedes VARCHAR,
    UNIQUE (task_id, annotator_id, revision)
);

CREATE TABLE users (
    id VARCHAR PRIMARY KEY,
    seq BIGINT NOT NULL,
    name VARCHAR NOT NULL UNIQUE,
    role VARCHAR NOT NULL CHECK (role IN ('annotator', 'researcher')),
    annotator_id VARCHAR,
    created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE tokens (
    id VARCHAR PRIMARY KEY,
    seq BIGINT NOT NULL,
    sha256 VARCHAR NOT NULL UNIQUE,
    kind VARCHAR NOT NULL CHECK (kind IN ('bearer', 'signin')),
    name VARCHAR NOT NULL,
    scope VARCHAR NOT NULL CHECK (scope IN ('label', 'research', 'admin')),
    user_id VARCHAR,
    annotator_id VARCHAR,
    expires_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE rounds (
    id VARCHAR PRIMARY KEY,
    seq BIGINT NOT NULL,
    number INTEGER NOT NULL UNIQUE,
    kind VARCHAR NOT NULL CHECK (kind IN ('round', 'fit', 'generate', 'evaluate')),
    parent_policy_id VARCHAR NOT NULL,
    new_policy_id VARCHAR,
    job_dir VARCHAR NOT NULL,
    settings VARCHAR NOT NULL, -- JSON
    created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE events (
    id VARCHAR PRIMARY KEY,
    seq BIGINT NOT NULL,
    "at" TIMESTAMPTZ NOT NULL,
    actor VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    subject VARCHAR NOT NULL,
    data VARCHAR NOT NULL -- JSON
);

-- Judgments that still stand: not taken back and not replaced.
CREATE VIEW standing AS
SELECT * FROM judgments
WHERE id NOT IN (SELECT subject FROM events WHERE kind = 'judgment.withdrawn')
  AND id NOT IN (SELECT supersedes FROM judgments WHERE supersedes IS NOT NULL);

CREATE VIEW policy_status AS
WITH promoted AS (SELECT subject AS id, max(seq) AS seq FROM events WHERE kind = 'policy.promoted' GROUP BY subject),
     retired AS (SELECT subject AS id, max(seq) AS seq FROM events WHERE kind = 'policy.retired' GROUP BY subject)
SELECT policies.*,
       CASE WHEN promoted.seq = (SELECT max(seq) FROM promoted) AND coalesce(retired.seq, -1) < promoted.seq THEN 'serving'
            WHEN promoted.seq IS NOT NULL OR retired.seq IS NOT NULL THEN 'retired'
            ELSE 'candidate' END AS status
FROM policies LEFT JOIN promoted USING (id) LEFT JOIN retired USING (id);

CREATE VIEW round_status AS
WITH said AS (
    SELECT subject AS id, arg_max(kind, seq) AS kind, arg_max(data, seq) AS data FROM events
    WHERE kind IN ('round.done', 'round.failed', 'round.cancelled', 'round.interrupted', 'round.resumed')
    GROUP BY subject)
SELECT rounds.*,
       CASE WHEN said.kind IS NULL OR said.kind = 'round.resumed' THEN 'running' ELSE substr(said.kind, 7) END AS status,
       json_extract_string(said.data, '$.message') AS message
FROM rounds LEFT JOIN said USING (id);

CREATE VIEW task_status AS
WITH made AS (SELECT task_id AS id, count(*) AS num_made FROM standing WHERE verdict <> 'skip' GROUP BY task_id)
SELECT tasks.*,
       coalesce(made.num_made, 0) AS num_made,
       tasks.id IN (SELECT subject FROM events WHERE kind = 'task.closed') AS closed
FROM tasks LEFT JOIN made USING (id);

-- Who wrote a response, in words: the imported model's name, or the number of our own policy.
CREATE VIEW written AS
SELECT responses.id, responses.text, responses.policy_id,
       coalesce(json_extract_string(responses.sampler, '$.model'), 'policy-' || policies.number) AS model,
       CAST(json_extract(responses.sampler, '$.context') AS STRUCT(role VARCHAR, content VARCHAR)[]) AS context
FROM responses LEFT JOIN policies ON policies.id = responses.policy_id;

-- Every judgment with all that exports need; context_a/b are turns between the prompt and an imported response.
CREATE VIEW all_judgments AS
SELECT judgments.seq, judgments.id AS judgment_id, judgments.task_id,
       judgments.annotator_id, annotators.handle AS annotator, annotators.kind AS annotator_kind,
       judgments.prompt_id, prompts.messages, prompts.source, prompts.split, prompts.tags,
       judgments.response_a_id, judgments.response_b_id, a.text AS response_a, b.text AS response_b,
       a.context AS context_a, b.context AS context_b,
       a.policy_id AS policy_a_id, b.policy_id AS policy_b_id, a.model AS model_a, b.model AS model_b,
       judgments.verdict, judgments.strength, judgments.aspects, judgments.rationale, judgments.reasons, judgments.edited_text,
       tasks.purpose, tasks.selection_rule, tasks.selection_score, tasks.selection_prob,
       judgments.shown_at, judgments.submitted_at, judgments.supersedes,
       judgments.id IN (SELECT id FROM standing) AS standing
FROM judgments
JOIN tasks ON tasks.id = judgments.task_id
JOIN prompts ON prompts.id = judgments.prompt_id
JOIN written a ON a.id = judgments.response_a_id
JOIN written b ON b.id = judgments.response_b_id
JOIN annotators ON annotators.id = judgments.annotator_id;

CREATE VIEW standing_judgments AS SELECT * EXCLUDE (standing) FROM all_judgments WHERE standing;
