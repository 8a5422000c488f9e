-- What the journal says of a call beside its two ends.

-- Candidates that were tried and did not answer, the first with the number 1.
CREATE TABLE attempts (
    request_id TEXT   NOT NULL,
    number     BIGINT NOT NULL,
    provider   TEXT   NOT NULL,
    -- 0: it gave none.
    status     BIGINT NOT NULL,
    error      TEXT,
    -- What the provider is owed for it, as far as we know: who did not answer is paid nothing.
    cost_nano  BIGINT NOT NULL,
    at_ms      BIGINT NOT NULL,
    PRIMARY KEY (request_id, number)
);

-- Usage that arrived after a call's end: what came on top of the row in `calls`. Key and organisation stand here too,
-- because it may be written before its call is.
CREATE TABLE amendments (
    request_id            TEXT   NOT NULL,
    sequence              BIGINT NOT NULL,
    key_id                TEXT   NOT NULL,
    org_id                TEXT   NOT NULL,
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
    at_ms                 BIGINT NOT NULL,
    PRIMARY KEY (request_id, sequence)
);

-- Every attempt: those that failed, and the one whose answer the client got.
CREATE VIEW all_attempts (request_id, number, provider, status, error, cost_nano, at_ms, answered) AS
SELECT request_id, number, provider, status, error, cost_nano, at_ms, 0
FROM attempts
UNION ALL
SELECT request_id, attempts, provider, status, error, charge_nano, ended_ms, 1
FROM calls
WHERE attempts >= 1
  -- Where nobody answered, the last attempt is among those that failed.
  AND NOT EXISTS (SELECT 1 FROM attempts failed WHERE failed.request_id = calls.request_id AND failed.number = calls.attempts);
