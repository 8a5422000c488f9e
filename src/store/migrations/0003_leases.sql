-- Leases: how much of a quota each node may spend by itself. Three running totals, each with one writer: the lease
-- transaction (granted), the node's own give-back (returned), the shipper (shipped).

CREATE TABLE leases (
    quota     BIGINT NOT NULL,
    -- When the period began that the credit is of; 0 for a total.
    period_ms BIGINT NOT NULL,
    node      TEXT   NOT NULL,
    granted   BIGINT NOT NULL,
    returned  BIGINT NOT NULL,
    shipped   BIGINT NOT NULL,
    PRIMARY KEY (quota, period_ms, node)
);

-- Who may ask for credit: a sole node gets all that there is, several share it in slices.
CREATE TABLE nodes (
    id         TEXT   NOT NULL PRIMARY KEY,
    created_ms BIGINT NOT NULL
);
