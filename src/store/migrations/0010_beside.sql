-- Whose journal has brought what stands beside a call: until the call itself is on the books, only that node knows of it.
-- Rows from before several nodes name none.
ALTER TABLE attempts ADD COLUMN node TEXT NOT NULL DEFAULT '';
ALTER TABLE amendments ADD COLUMN node TEXT NOT NULL DEFAULT '';
