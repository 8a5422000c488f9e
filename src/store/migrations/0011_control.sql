-- Who changed what, and who may change everything.

-- Every change of a record; only ever added to.
CREATE TABLE trail (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The organisation that it is about; nothing: none, or all of them.
    org         TEXT,
    at_ms       BIGINT NOT NULL,
    -- local, operator, user, key or system.
    actor_kind  TEXT   NOT NULL,
    -- An identifier of the actor; empty where there is none.
    actor       TEXT   NOT NULL,
    -- The role in which it was done; empty where there is none.
    role        TEXT   NOT NULL,
    -- The address from which it was asked for; empty where nobody asked over the network.
    address     TEXT   NOT NULL,
    request_id  TEXT   NOT NULL,
    -- Such as key.create.
    action      TEXT   NOT NULL,
    -- The identifier of what was changed.
    object      TEXT   NOT NULL,
    -- What it was before and what it is afterwards, JSON without any secret.
    before_json TEXT,
    after_json  TEXT
);

CREATE INDEX trail_of_org ON trail (org, id);

-- Tokens of operators.
CREATE TABLE operators (
    id           TEXT   NOT NULL PRIMARY KEY,
    name         TEXT   NOT NULL,
    lookup       BLOB   NOT NULL UNIQUE,
    fingerprint  TEXT   NOT NULL,
    created_ms   BIGINT NOT NULL,
    -- Since when it is refused.
    revoked_ms   BIGINT,
    last_used_ms BIGINT
);
