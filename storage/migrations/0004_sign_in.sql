-- How people sign in: a third role, sessions beside the other tokens, and what they prove themselves with.
-- DuckDB cannot change a CHECK, so both tables are written anew. Researchers keep what they could do: they become admins.

CREATE TABLE users_new (
    id VARCHAR PRIMARY KEY,
    seq BIGINT NOT NULL,
    name VARCHAR NOT NULL UNIQUE,
    role VARCHAR NOT NULL CHECK (role IN ('annotator', 'researcher', 'admin')),
    annotator_id VARCHAR,
    created_at TIMESTAMPTZ NOT NULL
);
INSERT INTO users_new
SELECT id, seq, name, CASE role WHEN 'researcher' THEN 'admin' ELSE role END, annotator_id, created_at FROM users ORDER BY seq;
DROP TABLE users;
ALTER TABLE users_new RENAME TO users;

CREATE TABLE tokens_new (
    id VARCHAR PRIMARY KEY,
    seq BIGINT NOT NULL,
    sha256 VARCHAR NOT NULL UNIQUE,
    kind VARCHAR NOT NULL CHECK (kind IN ('bearer', 'signin', 'session')),
    name VARCHAR NOT NULL,
    scope VARCHAR NOT NULL CHECK (scope IN ('label', 'research', 'admin')),
    user_id VARCHAR,
    annotator_id VARCHAR,
    expires_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ NOT NULL
);
INSERT INTO tokens_new
SELECT id, seq, sha256, kind, name, scope, user_id, annotator_id, expires_at, created_at FROM tokens ORDER BY seq;
DROP TABLE tokens;
ALTER TABLE tokens_new RENAME TO tokens;

-- The last one of a user and kind counts.
CREATE TABLE credentials (
    id VARCHAR PRIMARY KEY,
    seq BIGINT NOT NULL,
    user_id VARCHAR NOT NULL,
    kind VARCHAR NOT NULL CHECK (kind IN ('password', 'oidc')),
    secret VARCHAR NOT NULL UNIQUE, -- password: its argon2id hash; oidc: issuer and subject
    created_at TIMESTAMPTZ NOT NULL
);
