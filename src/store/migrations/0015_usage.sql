-- What clients say of their calls, and sums of usage by organisation.

-- Who uses the client's product, and the tags of the call, separated by spaces; nothing where the client said nothing.
ALTER TABLE calls ADD COLUMN end_user TEXT;
ALTER TABLE calls ADD COLUMN tags TEXT;

-- How requests were made that no provider was asked to serve, and how long they took; empty and -1 in rows of earlier releases.
ALTER TABLE requests ADD COLUMN method TEXT NOT NULL DEFAULT '';
ALTER TABLE requests ADD COLUMN latency_ms BIGINT NOT NULL DEFAULT -1;

-- Listing those of a key, in the order of time, which ids begin with.
CREATE INDEX requests_of_key ON requests (key_id, request_id);

-- Up to which row a node's calls are in the table below: behind `merged_through` where a release before it has merged them.
ALTER TABLE checkpoints ADD COLUMN parts_through BIGINT NOT NULL DEFAULT 0;

-- What an organisation's calls used and were charged, in parts that few rows tell a year of: `usage_hours` and `usage_days` have a row
-- for each key. An organisation's rows of a kind lie together, in the order of time.
CREATE TABLE usage_parts (
    org_id                TEXT   NOT NULL,
    -- all: by model and provider. project, key, user or tag: those of each, of projects by model and provider too.
    part                  TEXT   NOT NULL,
    -- hour, day or month, in UTC; of keys months only, of users and tags days and months.
    unit                  TEXT   NOT NULL,
    from_ms               BIGINT NOT NULL,
    -- The project's or key's id, the user's name or the tag; empty for all, and for users and tags beyond those that are told apart.
    name                  TEXT   NOT NULL,
    -- Empty where calls of all models and providers are summed up.
    model                 TEXT   NOT NULL,
    provider              TEXT   NOT NULL,
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
    PRIMARY KEY (org_id, part, unit, from_ms, name, model, provider)
) WITHOUT ROWID;

-- What earlier releases wrote down.
INSERT INTO usage_parts (
    org_id, part, unit, from_ms, name, model, provider, calls, estimated, input_tokens, output_tokens,
    cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, audio_input_tokens, image_input_tokens,
    reasoning_tokens, audio_output_tokens, image_output_tokens, web_searches, images, audio_milliseconds, characters,
    search_units, charge_nano
)
SELECT c.org_id, 'all', 'hour', c.started_ms - c.started_ms % 3600000, '', c.model, c.provider,
    COUNT(*), SUM(c.estimated), SUM(c.input_tokens), SUM(c.output_tokens), SUM(c.cache_read_tokens),
    SUM(c.cache_write_5m_tokens), SUM(c.cache_write_1h_tokens), SUM(c.audio_input_tokens), SUM(c.image_input_tokens),
    SUM(c.reasoning_tokens), SUM(c.audio_output_tokens), SUM(c.image_output_tokens), SUM(c.web_searches),
    SUM(c.images), SUM(c.audio_milliseconds), SUM(c.characters), SUM(c.search_units), SUM(c.charge_nano)
FROM calls c LEFT JOIN checkpoints n ON n.node = c.node
WHERE c.seq <= COALESCE(n.merged_through, c.seq)
GROUP BY c.org_id, c.started_ms - c.started_ms % 3600000, c.model, c.provider;

INSERT INTO usage_parts (
    org_id, part, unit, from_ms, name, model, provider, calls, estimated, input_tokens, output_tokens,
    cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, audio_input_tokens, image_input_tokens,
    reasoning_tokens, audio_output_tokens, image_output_tokens, web_searches, images, audio_milliseconds, characters,
    search_units, charge_nano
)
SELECT c.org_id, 'project', 'hour', c.started_ms - c.started_ms % 3600000, k.project, c.model, c.provider,
    COUNT(*), SUM(c.estimated), SUM(c.input_tokens), SUM(c.output_tokens), SUM(c.cache_read_tokens),
    SUM(c.cache_write_5m_tokens), SUM(c.cache_write_1h_tokens), SUM(c.audio_input_tokens), SUM(c.image_input_tokens),
    SUM(c.reasoning_tokens), SUM(c.audio_output_tokens), SUM(c.image_output_tokens), SUM(c.web_searches),
    SUM(c.images), SUM(c.audio_milliseconds), SUM(c.characters), SUM(c.search_units), SUM(c.charge_nano)
FROM calls c LEFT JOIN checkpoints n ON n.node = c.node JOIN keys k ON k.id = c.key_id
WHERE c.seq <= COALESCE(n.merged_through, c.seq) AND k.project IS NOT NULL
GROUP BY c.org_id, c.started_ms - c.started_ms % 3600000, k.project, c.model, c.provider;

INSERT INTO usage_parts (
    org_id, part, unit, from_ms, name, model, provider, calls, estimated, input_tokens, output_tokens,
    cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, audio_input_tokens, image_input_tokens,
    reasoning_tokens, audio_output_tokens, image_output_tokens, web_searches, images, audio_milliseconds, characters,
    search_units, charge_nano
)
SELECT c.org_id, c.part, 'day', c.from_ms - c.from_ms % 86400000, c.name, c.model, c.provider,
    SUM(c.calls), SUM(c.estimated), SUM(c.input_tokens), SUM(c.output_tokens), SUM(c.cache_read_tokens),
    SUM(c.cache_write_5m_tokens), SUM(c.cache_write_1h_tokens), SUM(c.audio_input_tokens), SUM(c.image_input_tokens),
    SUM(c.reasoning_tokens), SUM(c.audio_output_tokens), SUM(c.image_output_tokens), SUM(c.web_searches),
    SUM(c.images), SUM(c.audio_milliseconds), SUM(c.characters), SUM(c.search_units), SUM(c.charge_nano)
FROM usage_parts c WHERE c.unit = 'hour'
GROUP BY c.org_id, c.part, c.from_ms - c.from_ms % 86400000, c.name, c.model, c.provider;

INSERT INTO usage_parts (
    org_id, part, unit, from_ms, name, model, provider, calls, estimated, input_tokens, output_tokens,
    cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, audio_input_tokens, image_input_tokens,
    reasoning_tokens, audio_output_tokens, image_output_tokens, web_searches, images, audio_milliseconds, characters,
    search_units, charge_nano
)
SELECT c.org_id, c.part, 'month', c.month_ms, c.name, c.model, c.provider,
    SUM(c.calls), SUM(c.estimated), SUM(c.input_tokens), SUM(c.output_tokens), SUM(c.cache_read_tokens),
    SUM(c.cache_write_5m_tokens), SUM(c.cache_write_1h_tokens), SUM(c.audio_input_tokens), SUM(c.image_input_tokens),
    SUM(c.reasoning_tokens), SUM(c.audio_output_tokens), SUM(c.image_output_tokens), SUM(c.web_searches),
    SUM(c.images), SUM(c.audio_milliseconds), SUM(c.characters), SUM(c.search_units), SUM(c.charge_nano)
FROM (
    -- The day's month begins as many days before it as have gone since: Howard Hinnant's algorithm, as in `filters::time`.
    SELECT y.*, (day - (day_of_year - (153 * ((5 * day_of_year + 2) / 153) + 2) / 5)) * 86400000 AS month_ms
    FROM (
        SELECT x.*, day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100) AS day_of_year
        FROM (
            SELECT w.*, (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365 AS year_of_era
            FROM (SELECT u.*, u.from_ms / 86400000 AS day, (u.from_ms / 86400000 + 719468) % 146097 AS day_of_era FROM usage_parts u WHERE u.unit = 'day') w
        ) x
    ) y
) c
GROUP BY c.org_id, c.part, c.month_ms, c.name, c.model, c.provider;

INSERT INTO usage_parts (
    org_id, part, unit, from_ms, name, model, provider, calls, estimated, input_tokens, output_tokens,
    cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, audio_input_tokens, image_input_tokens,
    reasoning_tokens, audio_output_tokens, image_output_tokens, web_searches, images, audio_milliseconds, characters,
    search_units, charge_nano
)
SELECT k.org, 'key', 'month', c.month_ms, c.key_id, '', '',
    SUM(c.calls), SUM(c.estimated), SUM(c.input_tokens), SUM(c.output_tokens), SUM(c.cache_read_tokens),
    SUM(c.cache_write_5m_tokens), SUM(c.cache_write_1h_tokens), SUM(c.audio_input_tokens), SUM(c.image_input_tokens),
    SUM(c.reasoning_tokens), SUM(c.audio_output_tokens), SUM(c.image_output_tokens), SUM(c.web_searches),
    SUM(c.images), SUM(c.audio_milliseconds), SUM(c.characters), SUM(c.search_units), SUM(c.charge_nano)
FROM (
    SELECT y.*, (day - (day_of_year - (153 * ((5 * day_of_year + 2) / 153) + 2) / 5)) * 86400000 AS month_ms
    FROM (
        SELECT x.*, day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100) AS day_of_year
        FROM (
            SELECT w.*, (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365 AS year_of_era
            FROM (SELECT u.*, u.day_ms / 86400000 AS day, (u.day_ms / 86400000 + 719468) % 146097 AS day_of_era FROM usage_days u) w
        ) x
    ) y
) c JOIN keys k ON k.id = c.key_id
GROUP BY k.org, c.month_ms, c.key_id;

UPDATE checkpoints SET parts_through = merged_through;
