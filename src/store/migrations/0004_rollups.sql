-- The books are only ever added to while a call is shipped; what calls moved is summed up in larger steps.
--
-- WITHOUT ROWID is SQLite's and goes elsewhere: those tables are read and written by their primary keys alone.

-- The number of a row among those of its node, in the order in which they were shipped; 0 in rows of earlier releases.
ALTER TABLE calls ADD COLUMN seq BIGINT NOT NULL DEFAULT 0;
-- Where the charge goes: `QUOTA:PERIOD`, separated by spaces. Empty in rows of earlier releases.
ALTER TABLE calls ADD COLUMN shares TEXT NOT NULL DEFAULT '';
-- Up to which row a node's calls are in `spent` and in the tables below. What comes after it is still to be added.
ALTER TABLE checkpoints ADD COLUMN merged_through BIGINT NOT NULL DEFAULT 0;

-- One page of its own for each key that calls: no statement reads single calls of a key, and sums of them stand below.
DROP INDEX calls_of_key;
CREATE INDEX calls_in_order ON calls (node, seq);

-- What the calls of a key and a model used and were charged, by the UTC hour in which they were admitted. Time comes
-- first, so that the rows that are being added to lie together.
CREATE TABLE usage_hours (
    hour_ms               BIGINT NOT NULL,
    key_id                TEXT   NOT NULL,
    model                 TEXT   NOT NULL,
    calls                 BIGINT NOT NULL,
    estimated             BIGINT NOT NULL,
    input_tokens          BIGINT NOT NULL,
    output_tokens         BIGINT NOT NULL,
    cache_read_tokens     BIGINT NOT NULL,
    cache_write_5m_tokens BIGINT NOT NULL,
    cache_write_1h_tokens BIGINT NOT NULL,
    audio_input_tokens    BIGINT NOT NULL,
    image_input_tokens    BIGINT NOT NULL,
    reasoning_tokens      BIGINT NOT NULL,
    audio_output_tokens   BIGINT NOT NULL,
    image_output_tokens   BIGINT NOT NULL,
    web_searches          BIGINT NOT NULL,
    charge_nano           BIGINT NOT NULL,
    PRIMARY KEY (hour_ms, key_id, model)
) WITHOUT ROWID;

-- The same by UTC day.
CREATE TABLE usage_days (
    day_ms                BIGINT NOT NULL,
    key_id                TEXT   NOT NULL,
    model                 TEXT   NOT NULL,
    calls                 BIGINT NOT NULL,
    estimated             BIGINT NOT NULL,
    input_tokens          BIGINT NOT NULL,
    output_tokens         BIGINT NOT NULL,
    cache_read_tokens     BIGINT NOT NULL,
    cache_write_5m_tokens BIGINT NOT NULL,
    cache_write_1h_tokens BIGINT NOT NULL,
    audio_input_tokens    BIGINT NOT NULL,
    image_input_tokens    BIGINT NOT NULL,
    reasoning_tokens      BIGINT NOT NULL,
    audio_output_tokens   BIGINT NOT NULL,
    image_output_tokens   BIGINT NOT NULL,
    web_searches          BIGINT NOT NULL,
    charge_nano           BIGINT NOT NULL,
    PRIMARY KEY (day_ms, key_id, model)
) WITHOUT ROWID;

-- When a key's latest call was admitted.
CREATE TABLE last_used (
    key_id TEXT   NOT NULL PRIMARY KEY,
    at_ms  BIGINT NOT NULL
) WITHOUT ROWID;

-- What earlier releases wrote down.
INSERT INTO usage_hours
SELECT started_ms - started_ms % 3600000, key_id, model, COUNT(*), SUM(estimated), SUM(input_tokens), SUM(output_tokens),
    SUM(cache_read_tokens), SUM(cache_write_5m_tokens), SUM(cache_write_1h_tokens), SUM(audio_input_tokens),
    SUM(image_input_tokens), SUM(reasoning_tokens), SUM(audio_output_tokens), SUM(image_output_tokens),
    SUM(web_searches), SUM(charge_nano)
FROM calls GROUP BY 1, 2, 3;

INSERT INTO usage_days
SELECT hour_ms - hour_ms % 86400000, key_id, model, SUM(calls), SUM(estimated), SUM(input_tokens), SUM(output_tokens),
    SUM(cache_read_tokens), SUM(cache_write_5m_tokens), SUM(cache_write_1h_tokens), SUM(audio_input_tokens),
    SUM(image_input_tokens), SUM(reasoning_tokens), SUM(audio_output_tokens), SUM(image_output_tokens),
    SUM(web_searches), SUM(charge_nano)
FROM usage_hours GROUP BY 1, 2, 3;

INSERT INTO last_used SELECT key_id, MAX(started_ms) FROM calls GROUP BY key_id;

-- What somebody should be told, once.
CREATE TABLE events (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    org_id      TEXT    NOT NULL,
    quota       BIGINT  NOT NULL,
    -- When the quota's period began; 0 where it has none.
    period_ms   BIGINT  NOT NULL,
    -- threshold.
    kind        TEXT    NOT NULL,
    percent     BIGINT  NOT NULL,
    limit_value BIGINT  NOT NULL,
    spent       BIGINT  NOT NULL,
    at_ms       BIGINT  NOT NULL,
    UNIQUE (quota, period_ms, percent)
);

-- Requests of known keys that no provider was asked to serve: refused ones, and those that we answer ourselves. They are
-- noted as far as is cheap: neither all of them nor for good.
CREATE TABLE requests (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    request_id   TEXT    NOT NULL,
    key_id       TEXT    NOT NULL,
    org_id       TEXT    NOT NULL,
    route        TEXT    NOT NULL,
    model        TEXT,
    status       BIGINT  NOT NULL,
    error        TEXT,
    -- The quota that refused.
    limit_source TEXT,
    at_ms        BIGINT  NOT NULL
);

CREATE INDEX requests_by_time ON requests (at_ms);
