-- An age that no date can be moved by made every message of its channels fail: what is kept for longer is kept for a
-- hundred years.
create or replace function pgws.max_age(channel text) returns interval language sql stable as $$
  select pg_catalog.max(least(r.max_age, '100 years')) from pgws.retention r
  where $1 operator(pg_catalog.~) r.expression
$$;
