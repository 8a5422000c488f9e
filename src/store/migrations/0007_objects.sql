-- What providers store, and whose it is. Provider accounts are shared by all organisations; an id of a provider is given to one
-- of them, once.
CREATE TABLE objects (
    id          TEXT   NOT NULL,
    provider    TEXT   NOT NULL,
    -- The place of the credential that made it, in the provider's configuration.
    credential  BIGINT NOT NULL,
    kind        TEXT   NOT NULL,
    org_id      TEXT   NOT NULL,
    key_id      TEXT   NOT NULL,
    -- The request that made it.
    request_id  TEXT   NOT NULL,
    made_ms     BIGINT NOT NULL,
    -- When the provider deleted it. The row stays, so that a record that is shipped late does not bring it back.
    deleted_ms  BIGINT,
    -- Of files that can be listed: what they are for, and what the provider says of them.
    purpose     TEXT,
    content     TEXT,
    PRIMARY KEY (id, provider)
);

CREATE INDEX objects_listed ON objects (org_id, made_ms, id) WHERE content IS NOT NULL;
CREATE INDEX objects_in_background ON objects (made_ms) WHERE kind = 'background response';
