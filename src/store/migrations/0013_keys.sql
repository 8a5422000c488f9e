-- Keys as people keep them: what is said of them, where they may be used from, who made them, and secrets that were replaced.

-- model or service; '' in rows of earlier releases: what the scopes say.
ALTER TABLE keys ADD COLUMN kind TEXT NOT NULL DEFAULT '';
ALTER TABLE keys ADD COLUMN description TEXT NOT NULL DEFAULT '';
-- A JSON object of texts.
ALTER TABLE keys ADD COLUMN metadata TEXT NOT NULL DEFAULT '{}';
-- Name and description in small letters, for searches.
ALTER TABLE keys ADD COLUMN folded TEXT;
-- Addresses and ranges, separated by spaces; '': from anywhere.
ALTER TABLE keys ADD COLUMN addresses TEXT NOT NULL DEFAULT '';
-- Who made it; '' where that is not known.
ALTER TABLE keys ADD COLUMN created_by TEXT NOT NULL DEFAULT '';
ALTER TABLE keys ADD COLUMN archived_ms BIGINT;
-- A key that is gone leaves its row, without what was said of it: a call of it may still be in a journal. Earlier releases take it
-- for an archived one.
ALTER TABLE keys ADD COLUMN deleted_ms BIGINT;
-- Which pepper `lookup` was made with: the beginning of its probe; '': the one that `meta` has.
ALTER TABLE keys ADD COLUMN pepper TEXT NOT NULL DEFAULT '';
-- When the secret was made; NULL: with the key.
ALTER TABLE keys ADD COLUMN secret_created_ms BIGINT;
-- When the secret, and when any secret of the key, was last seen by a gateway, whatever became of the request.
ALTER TABLE keys ADD COLUMN secret_used_ms BIGINT;
ALTER TABLE keys ADD COLUMN used_ms BIGINT;

-- Secrets that were replaced. They are good until their end, and stay a little longer so that gateways hear of it.
CREATE TABLE key_secrets (
    lookup      BLOB   NOT NULL PRIMARY KEY,
    key_id      TEXT   NOT NULL,
    pepper      TEXT   NOT NULL,
    fingerprint TEXT   NOT NULL,
    created_ms  BIGINT NOT NULL,
    ends_ms     BIGINT NOT NULL,
    used_ms     BIGINT
);

CREATE INDEX key_secrets_of_key ON key_secrets (key_id);

-- Probes of the peppers in use beside the one that `meta` has.
CREATE TABLE peppers (
    probe TEXT NOT NULL PRIMARY KEY
);
