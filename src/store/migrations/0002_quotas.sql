-- Projects, and quotas that count over windows, may be narrowed to models and have a history.
--
-- As in the first migration, only definitions differ between the engines. Rows that keep their numbers leave PostgreSQL's
-- sequence behind: there it must be set to the highest of them.

CREATE TABLE projects (
    id         TEXT   NOT NULL PRIMARY KEY,
    org        TEXT   NOT NULL REFERENCES organisations (id),
    name       TEXT   NOT NULL,
    created_ms BIGINT NOT NULL
);

CREATE INDEX projects_of_org ON projects (org, id);

-- Nothing: the key stands directly below its organisation.
ALTER TABLE keys ADD COLUMN project TEXT REFERENCES projects (id);

CREATE INDEX keys_of_project ON keys (project, id);

CREATE TABLE quotas_with_windows (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    -- A key's, a project's or an organisation's identifier.
    owner             TEXT    NOT NULL,
    -- balance, spend, requests, tokens or concurrency.
    kind              TEXT    NOT NULL,
    -- total, minute, hour, day, week or month.
    unit              TEXT    NOT NULL,
    -- rolling or calendar; empty for a total.
    align             TEXT    NOT NULL,
    -- The calendar's time zone, an IANA name; otherwise empty.
    zone              TEXT    NOT NULL,
    -- A pattern of models; empty for all.
    model             TEXT    NOT NULL,
    -- 1: a bound, never passed. 0: an estimate.
    strict            BIGINT  NOT NULL,
    limit_value       BIGINT  NOT NULL,
    -- Added to the limit before this moment.
    increase_value    BIGINT,
    increase_until_ms BIGINT,
    -- Percentages of the limit that are worth an event, such as 50,80,100.
    thresholds        TEXT    NOT NULL,
    -- Since when it no longer limits anything. The row stays: what was charged to it stays on the books.
    removed_ms        BIGINT,
    UNIQUE (owner, kind, unit, align, zone, model)
);

INSERT INTO quotas_with_windows (id, owner, kind, unit, align, zone, model, strict, limit_value, thresholds)
SELECT id, owner, kind,
       CASE window_ms WHEN 0 THEN 'total' ELSE 'minute' END,
       CASE window_ms WHEN 0 THEN '' ELSE 'calendar' END,
       CASE window_ms WHEN 0 THEN '' ELSE 'UTC' END,
       '', 0, limit_value,
       CASE WHEN kind IN ('balance', 'spend') THEN '50,80,100' ELSE '' END
FROM quotas;

DROP TABLE quotas;

ALTER TABLE quotas_with_windows RENAME TO quotas;

-- Every limit that was ever in force, so that the books can be held against it: from `at_ms` on, until the quota's next row.
-- The largest number is no limit.
CREATE TABLE limit_history (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    quota          BIGINT NOT NULL,
    at_ms          BIGINT NOT NULL,
    strict         BIGINT NOT NULL,
    limit_value    BIGINT NOT NULL,
    -- Added to the limit before `until_ms`.
    increase_value BIGINT,
    until_ms       BIGINT
);

CREATE INDEX limit_history_of_quota ON limit_history (quota, at_ms, id);

-- The limits in force now are taken to have been so from the beginning.
INSERT INTO limit_history (quota, at_ms, strict, limit_value) SELECT id, 0, 0, limit_value FROM quotas;
