-- Where a reader starts: the position of a snapshot, and the newest messages of a channel.

-- The last position that is visible in the snapshot of the statement; 0: none is. Positions become visible in their order:
-- who hands them out holds the lock of pgws.commit_lock until the end of its commit (pgws.flush, pgws.relay). So a snapshot
-- has every message up to this one, and none after it. Those that are gone already count: an empty table is no beginning.
create function pgws.last_position() returns bigint language sql stable parallel safe as $$
  select greatest(
    (select coalesce(pg_catalog.max(m.position), 0) from pgws.messages m),
    (select coalesce(pg_catalog.max(t.position), 0) from pgws.trimmed t),
    (select pg_catalog.max(f.position) from pgws.forgotten f)
  )
$$;

-- The id of that position. STABLE: it is read with the snapshot of the query that calls it
-- (https://www.postgresql.org/docs/current/xfunc-volatility.html).
create function pgws.position() returns text
language sql stable parallel safe security definer set search_path = pg_catalog, pg_temp as $$
  select pgws.message_id(pgws.last_position())
$$;

-- Beside the function of the same name that begins with the oldest: `newest` has no default, so no call of that one is
-- ambiguous.
create function pgws.history(channel text, newest integer)
  returns table (id text, message text, created_at timestamptz)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select pgws.message_id(m.position), m.body, m.created_at from pgws.messages m
  where m.channel = $1 and m.position is not null and m.expires_at > clock_timestamp()
  order by m.position desc limit newest
$$;

revoke all on function pgws.last_position, pgws.position, pgws.history(text, integer) from public;
-- Who may publish, or run a server, may read positions; who may read the history may read it from its end.
do $$
declare
  granted record;
begin
  for granted in
    select distinct a.grantee::pg_catalog.regrole as role, case p.proname
        when 'publish' then 'pgws.position' when 'relay' then 'pgws.position, pgws.last_position' else 'pgws.history(text, integer)'
      end as functions
    from pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a
    where p.pronamespace = 'pgws'::pg_catalog.regnamespace and p.proname in ('publish', 'relay', 'history')
      and a.privilege_type = 'EXECUTE' and a.grantee <> 0 and a.grantee <> p.proowner
  loop
    execute pg_catalog.format('grant execute on function %s to %s', granted.functions, granted.role);
  end loop;
end $$;

comment on function pgws.last_position is 'The last position that is visible in this snapshot. For: pgws_server.';
comment on function pgws.position is 'The id to go on from after a query in the same snapshot. For: pgws_publisher, pgws_server.';
comment on function pgws.history(text, integer) is 'The newest messages of a channel, the newest first. For: pgws_server.';
