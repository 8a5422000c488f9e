-- Who people are, how they sign in, and what they are in organisations.

CREATE TABLE users (
    id           TEXT   NOT NULL PRIMARY KEY,
    -- In lower case: one address is one user.
    email        TEXT   NOT NULL UNIQUE,
    name         TEXT   NOT NULL,
    -- Argon2id with its parameters and its salt, in the form that PHC describes. None: nobody signs in with a password.
    password     TEXT,
    -- The organisation that the first sign-in made.
    personal_org TEXT REFERENCES organisations (id),
    created_ms   BIGINT NOT NULL,
    disabled_ms  BIGINT
);

CREATE TABLE members (
    org       TEXT   NOT NULL REFERENCES organisations (id),
    user_id   TEXT   NOT NULL REFERENCES users (id),
    -- owner, admin, developer, billing or viewer.
    role      TEXT   NOT NULL,
    joined_ms BIGINT NOT NULL,
    PRIMARY KEY (org, user_id)
);

CREATE INDEX members_of_user ON members (user_id);

CREATE TABLE sessions (
    id         TEXT   NOT NULL PRIMARY KEY,
    user_id    TEXT   NOT NULL REFERENCES users (id),
    -- HMAC of the token's hash under the pepper, as for keys.
    lookup     BLOB   NOT NULL UNIQUE,
    -- From where it was opened.
    address    TEXT   NOT NULL,
    created_ms BIGINT NOT NULL,
    -- Last use, to the minute. It ends when it was not used for so long, and at its end in any case.
    used_ms    BIGINT NOT NULL,
    idle_ms    BIGINT NOT NULL,
    ends_ms    BIGINT NOT NULL
);

CREATE INDEX sessions_of_user ON sessions (user_id, id);
CREATE INDEX sessions_by_end ON sessions (ends_ms);

CREATE TABLE invitations (
    id          TEXT   NOT NULL PRIMARY KEY,
    org         TEXT   NOT NULL REFERENCES organisations (id),
    -- Who is meant.
    email       TEXT   NOT NULL,
    role        TEXT   NOT NULL,
    lookup      BLOB   NOT NULL UNIQUE,
    -- The user who invites; none: an operator's token or a key.
    invited_by  TEXT,
    created_ms  BIGINT NOT NULL,
    expires_ms  BIGINT NOT NULL,
    accepted_ms BIGINT,
    accepted_by TEXT REFERENCES users (id),
    revoked_ms  BIGINT
);

CREATE INDEX invitations_of_org ON invitations (org, id);

-- 1: an operator has set the limit, and of an organisation nobody else changes it. Those from before were set on the command line.
ALTER TABLE quotas ADD COLUMN by_operator BIGINT NOT NULL DEFAULT 1;

-- Attempts to sign in, by what they are counted for: an address of the network or of a user, hashed under the pepper, whether
-- or not there is such a user.
CREATE TABLE sign_in_attempts (
    subject    BLOB   NOT NULL PRIMARY KEY,
    started_ms BIGINT NOT NULL,
    attempts   BIGINT NOT NULL
);

CREATE INDEX sign_in_attempts_by_start ON sign_in_attempts (started_ms);

CREATE INDEX trail_of_object ON trail (object, id);
CREATE TRIGGER trail_stays BEFORE UPDATE ON trail FOR EACH ROW BEGIN SELECT RAISE(ABORT, 'rows are only added here'); END;
CREATE TRIGGER trail_lasts BEFORE DELETE ON trail FOR EACH ROW BEGIN SELECT RAISE(ABORT, 'rows are only added here'); END;
