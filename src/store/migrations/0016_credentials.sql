-- Credentials that organisations have at providers themselves.
CREATE TABLE credentials (
    id               TEXT   NOT NULL PRIMARY KEY,
    org              TEXT   NOT NULL REFERENCES organisations (id),
    -- What objects that it has made are remembered by; never given to another of the organisation.
    place            BIGINT NOT NULL,
    name             TEXT   NOT NULL,
    -- By its name in the configuration.
    provider         TEXT   NOT NULL,
    -- Where it is asked; empty: at the provider's own address.
    base_url         TEXT   NOT NULL,
    -- Patterns, separated by spaces.
    models           TEXT   NOT NULL,
    priority         BIGINT NOT NULL,
    weight           BIGINT NOT NULL,
    -- 1: calls that it could serve may be made with the operator's credentials too.
    fallback         BIGINT NOT NULL,
    -- live, disabled or deleted. A deleted one has no secret any more; the row keeps its place.
    status           TEXT   NOT NULL,
    -- Grows with each new secret.
    version          BIGINT NOT NULL,
    -- The secret's last characters.
    fingerprint      TEXT   NOT NULL,
    -- The secret under a key of its own, and that key under the master key of this name.
    sealed           BLOB   NOT NULL,
    wrapped          BLOB   NOT NULL,
    master_key       TEXT   NOT NULL,
    created_ms       BIGINT NOT NULL,
    rotated_ms       BIGINT,
    last_used_ms     BIGINT,
    -- The provider refused it, lately with this status, and it is left alone until then.
    benched_status   BIGINT,
    benched_until_ms BIGINT,
    UNIQUE (org, place)
);

CREATE INDEX credentials_of_org ON credentials (org, id);

-- How many live ones an organisation has: most have none, and their keys are read without looking for any.
ALTER TABLE organisations ADD COLUMN own_credentials BIGINT NOT NULL DEFAULT 0;
