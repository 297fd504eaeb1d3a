-- What a role, or a database, has set must not change what our functions do: what they depend on, they set for themselves.
-- Nothing else, and no timeout of those who write.

-- Their texts have backslashes.
alter function pgws.pattern_expression(text) set standard_conforming_strings = on;
alter function pgws.watch(regclass, text, text[], text[], text) set standard_conforming_strings = on;
alter function pgws.unwatch(regclass, text) set standard_conforming_strings = on;

-- A row is told of alike, whoever has written it; no digit of a number is left out.
alter function pgws.tell() set "DateStyle" = 'ISO, MDY';
alter function pgws.tell() set "IntervalStyle" = 'postgres';
alter function pgws.tell() set bytea_output = 'hex';
alter function pgws.tell() set extra_float_digits = 1;

-- Only servers call it, in transactions of their own: they wait for those that commit, as long as a statement may take.
alter function pgws.relay(bigint, text, text[], text[], interval[], text[]) set lock_timeout = '4s';
