-- What organisations are told: an event is written in the transaction that makes it, with a delivery for each webhook that
-- wants it, and is sent afterwards, as often as it takes.
CREATE TABLE outbox (
    id    TEXT   NOT NULL PRIMARY KEY,
    org   TEXT   NOT NULL,
    kind  TEXT   NOT NULL,
    -- What it is told of, once.
    once  TEXT   NOT NULL UNIQUE,
    -- JSON, as it is sent.
    data  TEXT   NOT NULL,
    at_ms BIGINT NOT NULL
);

CREATE INDEX outbox_of_org ON outbox (org, id);
CREATE INDEX outbox_by_time ON outbox (at_ms);

CREATE TABLE webhooks (
    id                TEXT   NOT NULL PRIMARY KEY,
    -- Empty: the operator's, which hears of all organisations.
    org               TEXT   NOT NULL,
    url               TEXT   NOT NULL,
    description       TEXT   NOT NULL,
    -- Kinds of events, separated by spaces; empty: all.
    kinds             TEXT   NOT NULL,
    -- What the signing secret is made of, and the one before while both sign.
    secret            TEXT   NOT NULL,
    previous_secret   TEXT,
    previous_until_ms BIGINT,
    created_ms        BIGINT NOT NULL,
    disabled_ms       BIGINT,
    -- Why it was disabled, where nobody asked for it.
    disabled_reason   TEXT
);

CREATE INDEX webhooks_of_org ON webhooks (org, id);

CREATE TABLE deliveries (
    id               TEXT   NOT NULL PRIMARY KEY,
    webhook          TEXT   NOT NULL,
    event            TEXT   NOT NULL,
    -- waiting, delivered, failed.
    status           TEXT   NOT NULL,
    -- Tries since it was last begun.
    attempts         BIGINT NOT NULL,
    created_ms       BIGINT NOT NULL,
    -- When it is tried next.
    next_ms          BIGINT NOT NULL,
    -- Until when a node is at it; 0: none is.
    claimed_until_ms BIGINT NOT NULL,
    -- The latest try: when it ended, how long it took, the status that was answered, or why there was none.
    last_ms          BIGINT,
    last_took_ms     BIGINT,
    last_status      BIGINT,
    last_error       TEXT
);

CREATE INDEX deliveries_waiting ON deliveries (next_ms) WHERE status = 'waiting';
CREATE INDEX deliveries_of_webhook ON deliveries (webhook, id);
CREATE INDEX deliveries_by_time ON deliveries (created_ms);

-- From which balance on an organisation wants to hear that its credit is low, if not from the configured one; and whether it has
-- heard of it since it last had more.
CREATE TABLE credit_notices (
    org      TEXT   NOT NULL PRIMARY KEY,
    low_nano BIGINT,
    told     BIGINT NOT NULL
);

-- What one of the nodes does from time to time, and when the next one may.
CREATE TABLE duties (
    name   TEXT   NOT NULL PRIMARY KEY,
    due_ms BIGINT NOT NULL
);

-- Whose end is near.
CREATE INDEX keys_by_end ON keys (expires_ms) WHERE expires_ms IS NOT NULL;
