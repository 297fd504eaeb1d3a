-- Nothing in the schema resolves to what others have created. `search_path = pg_catalog` alone still looks into pg_temp
-- first for tables and types, so that any role could put its own in their place
-- (https://www.postgresql.org/docs/current/sql-createfunction.html, "Writing SECURITY DEFINER Functions Safely").
do $$
declare
  one pg_catalog.regprocedure;
begin
  for one in
    select p.oid from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
    where n.nspname = 'pgws' and p.proconfig = '{search_path=pg_catalog}'
  loop
    execute pg_catalog.format('alter function %s set search_path = pg_catalog, pg_temp', one);
  end loop;
end $$;

-- Those that have none are called for each message, some of them inlined: they name everything in full.
create or replace function pgws.max_bytes() returns integer language sql immutable as 'select 67108864';

create or replace function pgws.max_age(channel text) returns interval language sql stable as $$
  select pg_catalog.max(r.max_age) from pgws.retention r where $1 operator(pg_catalog.~) r.expression
$$;

create or replace function pgws.message_id(place bigint) returns text language sql stable as $$
  select s.epoch operator(pg_catalog.||) '-' operator(pg_catalog.||) pg_catalog.lpad(pg_catalog.to_hex($1), 16, '0') from pgws.settings s
$$;

create or replace function pgws.short(channel text) returns text language sql immutable as $$
  select case when pg_catalog.octet_length(channel) operator(pg_catalog.<=) 1000 then channel end
$$;

create or replace function pgws.notification(epoch text, place bigint, channel text, body text) returns text
language sql stable as $$
  select case
    when pg_catalog.octet_length(body) operator(pg_catalog.<) 7964
      then '{"id":"' operator(pg_catalog.||) epoch operator(pg_catalog.||) '-'
        operator(pg_catalog.||) pg_catalog.lpad(pg_catalog.to_hex(place), 16, '0')
        operator(pg_catalog.||) '",' operator(pg_catalog.||) pg_catalog.substr(body, 2)
    else pg_catalog.json_build_object('pgws', 'message', 'position', place, 'channel', pgws.short(channel))::pg_catalog.text
  end
$$;

alter function pgws.pattern_expression(text) set search_path = pg_catalog, pg_temp;

-- Who cleans locks this row: any role may take an advisory lock, and keep it.
create table pgws.cleaning (only_row boolean primary key default true check (only_row));
insert into pgws.cleaning default values;

-- Deletes what is too old or too many, some of it at a time, and by one session at a time. Answers how many rows;
-- null where another session does it.
create or replace function pgws.clean(rows integer default 5000) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  old_rows integer;
  large_rows integer;
  surplus integer := 0;
  busy record;
  removed integer;
begin
  perform 1 from pgws.cleaning for update skip locked;
  if not found then return null; end if;
  with gone as (
    delete from pgws.messages m where m.position in (
      select e.position from pgws.messages e
      where e.position is not null and e.expires_at <= clock_timestamp() order by e.expires_at limit rows
    ) returning m.channel, m.position
  ), noted as (
    insert into pgws.trimmed as t (channel, position) select g.channel, max(g.position) from gone g group by g.channel
    on conflict (channel) do update set position = greatest(t.position, excluded.position), trimmed_at = now()
  )
  select count(*) into old_rows from gone;
  delete from pgws.large l where l.id in (
    select o.id from pgws.large o where o.created_at < clock_timestamp() - interval '1 minute' order by o.created_at limit rows
  );
  get diagnostics large_rows = row_count;
  for busy in
    select c.channel, (
      select min(r.max_messages) from pgws.retention r where c.channel ~ r.expression
    ) as keep
    from (
      -- A loose index scan: one step for each channel, not for each message.
      with recursive names as (
        (select m.channel from pgws.messages m where m.position is not null order by m.channel limit 1)
        union all
        select (select m.channel from pgws.messages m where m.position is not null and m.channel > n.channel order by m.channel limit 1)
        from names n where n.channel is not null
      )
      select channel from names where channel is not null
    ) c
    where exists (select from pgws.retention r where r.max_messages is not null)
  loop
    continue when busy.keep is null;
    with gone as (
      delete from pgws.messages m where m.position in (
        select o.position from pgws.messages o
        where o.channel = busy.channel and o.position is not null and o.position <= (
          select p.position from pgws.messages p where p.channel = busy.channel and p.position is not null
          order by p.position desc offset busy.keep limit 1
        ) order by o.position limit rows
      ) returning m.channel, m.position
    ), noted as (
      insert into pgws.trimmed as t (channel, position) select g.channel, max(g.position) from gone g group by g.channel
      on conflict (channel) do update set position = greatest(t.position, excluded.position), trimmed_at = now()
    )
    select count(*) into removed from gone;
    surplus := surplus + removed;
  end loop;
  with stale as (
    delete from pgws.trimmed t where t.trimmed_at < now() - interval '7 days' returning t.position
  )
  update pgws.forgotten f set position = greatest(f.position, (select max(position) from stale))
  where exists (select from pgws.trimmed t where t.trimmed_at < now() - interval '7 days');
  return old_rows + large_rows + surplus;
end $$;
