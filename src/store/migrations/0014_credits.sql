-- Credits as a ledger of entries whose legs add up to nothing; what becomes of old rows; requests that are carried out once.

-- Answers to requests that named themselves, for a day.
CREATE TABLE idempotency (
    -- Who asked for what kind of thing.
    scope   TEXT   NOT NULL,
    -- The client's name for the request.
    name    TEXT   NOT NULL,
    -- The hash of its body.
    request TEXT   NOT NULL,
    answer  TEXT   NOT NULL,
    at_ms   BIGINT NOT NULL,
    PRIMARY KEY (scope, name)
);

CREATE INDEX idempotency_by_time ON idempotency (at_ms);

-- What moved money, and why. Only ever added to. No foreign key: an organisation that is gone must not stop the books.
CREATE TABLE entries (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    org        TEXT    NOT NULL,
    -- opening, topup, adjustment, refund or charges.
    kind       TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    -- Who made it.
    actor      TEXT    NOT NULL,
    -- The call that is refunded.
    request_id TEXT,
    -- Of charges: the hour in which the calls began.
    hour_ms    BIGINT,
    -- Since when it counts: the month of this moment is the month of its statement.
    at_ms      BIGINT  NOT NULL
);

CREATE INDEX entries_of_org ON entries (org, id);
CREATE INDEX entries_of_month ON entries (org, at_ms);
CREATE INDEX entries_of_hour ON entries (hour_ms, org) WHERE hour_ms IS NOT NULL;
CREATE INDEX entries_of_call ON entries (request_id) WHERE request_id IS NOT NULL;

-- The two sides and more of an entry. They add up to nothing.
CREATE TABLE legs (
    entry       BIGINT NOT NULL REFERENCES entries (id),
    number      BIGINT NOT NULL,
    -- org:ID:credits, org:ID:charges, operator:funding, operator:adjustments, operator:refunds or operator:revenue.
    account     TEXT   NOT NULL,
    -- Of charges: whose calls of what, and the project in which the key was then; otherwise empty.
    project     TEXT   NOT NULL DEFAULT '',
    key_id      TEXT   NOT NULL DEFAULT '',
    model       TEXT   NOT NULL DEFAULT '',
    amount_nano BIGINT NOT NULL,
    PRIMARY KEY (entry, number)
) WITHOUT ROWID;

-- The entry that a row of `credits` has become; none yet for those of releases before this one, which go on reading and writing
-- that table.
ALTER TABLE credits ADD COLUMN entry BIGINT;

CREATE INDEX credits_to_take_over ON credits (id) WHERE entry IS NULL;

CREATE TRIGGER entries_stay BEFORE UPDATE ON entries FOR EACH ROW BEGIN SELECT RAISE(ABORT, 'rows are only added here'); END;
CREATE TRIGGER entries_last BEFORE DELETE ON entries FOR EACH ROW BEGIN SELECT RAISE(ABORT, 'rows are only added here'); END;
CREATE TRIGGER legs_stay BEFORE UPDATE ON legs FOR EACH ROW BEGIN SELECT RAISE(ABORT, 'rows are only added here'); END;
CREATE TRIGGER legs_last BEFORE DELETE ON legs FOR EACH ROW BEGIN SELECT RAISE(ABORT, 'rows are only added here'); END;

-- Hours that calls have come to after they were booked.
CREATE TABLE late_hours (
    hour_ms BIGINT NOT NULL,
    -- Whose shipment brought them.
    node    TEXT   NOT NULL,
    PRIMARY KEY (hour_ms, node)
);

-- Usage after a call's end is booked in the hour in which it came.
CREATE INDEX amendments_by_time ON amendments (at_ms);

-- How long an organisation's calls are kept one by one, in days. None: as is configured for all; 0: for ever.
ALTER TABLE organisations ADD COLUMN retention_days BIGINT;
-- Calls that began before it are summed up in the tables below.
ALTER TABLE organisations ADD COLUMN folded_ms BIGINT NOT NULL DEFAULT 0;

-- The sums of rows that are gone, by the UTC month of their moment.
CREATE TABLE closings (
    org                   TEXT   NOT NULL,
    month_ms              BIGINT NOT NULL,
    -- calls, or amendments to them.
    kind                  TEXT   NOT NULL,
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
    images                BIGINT NOT NULL,
    audio_milliseconds    BIGINT NOT NULL,
    characters            BIGINT NOT NULL,
    search_units          BIGINT NOT NULL,
    charge_nano           BIGINT NOT NULL,
    PRIMARY KEY (org, month_ms, kind)
) WITHOUT ROWID;

-- Where the charges of calls went that are gone.
CREATE TABLE folded_shares (
    quota       BIGINT NOT NULL,
    period_ms   BIGINT NOT NULL,
    node        TEXT   NOT NULL,
    charge_nano BIGINT NOT NULL,
    PRIMARY KEY (quota, period_ms, node)
) WITHOUT ROWID;

-- What amendments that are gone were booked as.
CREATE TABLE folded_amendments (
    hour_ms     BIGINT NOT NULL,
    org         TEXT   NOT NULL,
    key_id      TEXT   NOT NULL,
    model       TEXT   NOT NULL,
    charge_nano BIGINT NOT NULL,
    PRIMARY KEY (hour_ms, org, key_id, model)
) WITHOUT ROWID;
