-- Several nodes on one authority.

-- A row for each quota that was ever leased. A lease transaction writes to those that it is about, in the order of their
-- numbers, before it reads what it decides by: of two transactions about one quota, one waits for the other.
CREATE TABLE leased_quotas (
    quota     BIGINT NOT NULL PRIMARY KEY,
    -- Lease transactions so far.
    asked     BIGINT NOT NULL,
    -- When a node was last refused what others held; 0: never.
    wanted_ms BIGINT NOT NULL
);

-- When the node was last heard of, by the authority's clock.
ALTER TABLE nodes ADD COLUMN heartbeat_ms BIGINT NOT NULL DEFAULT 0;
-- live, stopped (it has given everything back) or forgotten (by an operator: it gets nothing any more).
ALTER TABLE nodes ADD COLUMN state TEXT NOT NULL DEFAULT 'live';
-- The number of a forgotten node's last call on the books when what it held was released: later ones were nobody's to pay for.
ALTER TABLE nodes ADD COLUMN released_seq BIGINT;

-- What forgotten nodes held, and is counted as spent. Calls that their journals bring later are charged against it.
CREATE TABLE unaccounted (
    quota     BIGINT NOT NULL,
    period_ms BIGINT NOT NULL,
    node      TEXT   NOT NULL,
    -- Booked as spent when the node was forgotten.
    amount    BIGINT NOT NULL,
    -- Of it, what calls have accounted for since.
    charged   BIGINT NOT NULL,
    PRIMARY KEY (quota, period_ms, node)
);
