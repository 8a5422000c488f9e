-- What is billed by something that is not a token: pictures made, milliseconds of sound heard, characters spoken, searches and
-- rankings. Calls of earlier releases had none of it.

ALTER TABLE calls ADD COLUMN images BIGINT NOT NULL DEFAULT 0;
ALTER TABLE calls ADD COLUMN audio_milliseconds BIGINT NOT NULL DEFAULT 0;
ALTER TABLE calls ADD COLUMN characters BIGINT NOT NULL DEFAULT 0;
ALTER TABLE calls ADD COLUMN search_units BIGINT NOT NULL DEFAULT 0;

ALTER TABLE amendments ADD COLUMN images BIGINT NOT NULL DEFAULT 0;
ALTER TABLE amendments ADD COLUMN audio_milliseconds BIGINT NOT NULL DEFAULT 0;
ALTER TABLE amendments ADD COLUMN characters BIGINT NOT NULL DEFAULT 0;
ALTER TABLE amendments ADD COLUMN search_units BIGINT NOT NULL DEFAULT 0;

ALTER TABLE usage_hours ADD COLUMN images BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_hours ADD COLUMN audio_milliseconds BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_hours ADD COLUMN characters BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_hours ADD COLUMN search_units BIGINT NOT NULL DEFAULT 0;

ALTER TABLE usage_days ADD COLUMN images BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_days ADD COLUMN audio_milliseconds BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_days ADD COLUMN characters BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_days ADD COLUMN search_units BIGINT NOT NULL DEFAULT 0;
