-- When the sequencer changes from a server with a bus to one without, servers with a bus read what they lack at once, before
-- anything newer, and those without one notify nothing twice.

-- Whether a message was notified when it was published, because what clients send is notified to whoever listens in SQL.
alter table pgws.passing_0 add column notified boolean not null default false;
alter table pgws.passing_1 add column notified boolean not null default false;

-- As before, and notes whether the messages that nobody retains are notified, too.
drop function pgws.store(text[], text[], interval[], text[], timestamptz[]);
create function pgws.store(channels text[], bodies text[], ages interval[], keys text[], times timestamptz[],
  notified boolean default false) returns integer
language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  used constant bigint := coalesce(pg_sequence_last_value('pgws.passing_state'), 0);
  found_count integer;
begin
  with input as materialized (
    select * from unnest(channels, bodies, ages, keys, times) with ordinality as i (channel, body, age, key, time, n)
  ), placed as materialized (
    select f.*, nextval('pgws.positions') as position from (
      select i.* from input i
      where i.age is null or i.key is null or not exists (select from pgws.messages m where m.key = i.key)
      order by i.n
    ) f
  ), durable as (
    insert into pgws.messages (position, channel, body, created_at, expires_at, key)
    select p.position, p.channel, p.body, coalesce(p.time, clock_timestamp()), coalesce(p.time, clock_timestamp()) + p.age, p.key
    from placed p where p.age is not null
  ), passing_0 as (
    insert into pgws.passing_0 (position, channel, body, key, notified)
    select p.position, p.channel, p.body, p.key, store.notified and octet_length(p.body) < 7999 from placed p where p.age is null and used = 0
  ), passing_1 as (
    insert into pgws.passing_1 (position, channel, body, key, notified)
    select p.position, p.channel, p.body, p.key, store.notified and octet_length(p.body) < 7999 from placed p where p.age is null and used = 1
  )
  select count(*) into found_count from placed;
  return found_count;
end $$;

revoke execute on function pgws.store from public;
comment on function pgws.store is 'Gives positions to messages and stores them, for a bus. For: the owner.';

-- As before, and says to pgws.store what it notifies.
create or replace function pgws.relay_as(retention_version bigint, listen_channel text, channels text[], bodies text[], ages interval[], keys text[], sql boolean)
returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '4s' as $$
declare
  stored bigint;
begin
  if pgws.by_bus() or exists (select from unnest(ages) age where age is not null) then
    lock table pgws.commit_lock in exclusive mode;
  end if;
  -- Behind the lock it does not change.
  if not pgws.by_bus() then
    return pgws.relay_by_notify(retention_version, listen_channel, channels, bodies, ages, keys);
  end if;
  if not exists (select from pgws.settings s where s.retention_version = relay_as.retention_version) then return null; end if;
  if array_to_string(keys, ' ') like '%http:%' then
    select array_agg(u.channel order by u.n), array_agg(u.body order by u.n), array_agg(u.age order by u.n), array_agg(u.key order by u.n)
    into channels, bodies, ages, keys
    from (
      select i.*, row_number() over (partition by i.key order by i.n) as occurrence
      from unnest(channels, bodies, ages, keys) with ordinality as i (channel, body, age, key, n)
    ) u
    where u.key is null or u.occurrence = 1;
  end if;
  stored := pgws.store(channels, bodies, ages, keys, null, sql);
  if sql then
    -- PostgreSQL folds equal notifications of a transaction into one.
    perform pg_notify(relay_as.listen_channel, n.body || repeat(' ', n.copies::integer) || chr(9)) from (
      select i.body, i.n, row_number() over (partition by i.body order by i.n) - 1 as copies
      from unnest(bodies, ages) with ordinality as i (body, age, n) where i.age is null
    ) n where octet_length(n.body) + n.copies < 7999 order by n.n;
  end if;
  if stored > 0 and pg_sequence_last_value('pgws.outbox_state') % 2 = 0 then
    perform pg_notify('pgws_sequencer', '');
  end if;
  return stored;
end $$;

-- As before, but what was notified is not notified again, and servers with a bus are told up to where there are positions.
create or replace function pgws.lead_as(node text, patience interval, mode bigint, out term bigint, out absence interval)
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '4s' as $$
declare
  before pgws.sequencer;
  this_database constant text := (select c.system_identifier from pg_control_system() c)
    || '/' || (select d.oid from pg_database d where d.datname = current_database());
  message record;
  large_id bigint;
  last_place bigint;
begin
  select * into before from pgws.sequencer s
    where s.node is not distinct from lead_as.node or s.until < clock_timestamp() for update;
  if not found then return; end if;
  term := before.term + case when before.node is not distinct from lead_as.node then 0 else 1 end;
  absence := greatest(clock_timestamp() - before.until, '0');
  update pgws.sequencer s set node = lead_as.node, term = lead_as.term, until = clock_timestamp() + patience, database = this_database;
  perform pgws.advance_sequences();
  -- A copy of a database, or its restore, has messages of its own from here on.
  if before.database <> this_database then perform pgws.new_epoch(); end if;
  if pg_sequence_last_value('pgws.outbox_state') is null then perform setval('pgws.outbox_state', 1); end if;
  if mode <> coalesce(pg_sequence_last_value('pgws.announcing'), 1) then
    lock table pgws.commit_lock in exclusive mode;
    if mode = 2 then
      -- The database has announced everything up to here.
      perform setval('pgws.announced', greatest(pgws.last_position(), pg_sequence_last_value('pgws.announced'), 0));
    else
      -- Servers with a bus notice that they lack positions, whatever channels they are of, and read them from the tables before
      -- they deliver what the database notifies from now on.
      last_place := coalesce(pgws.last_place(), 0);
      perform pg_notify('pgws_announcements', pgws.announcement(k.secret, s.listen_channel, last_place, last_place + 1, last_place))
        from pgws.settings s, pgws.secret k;
      -- For servers without a bus: what was not announced, or is not known to have been, and was not notified when it was
      -- published. Servers with a bus drop what has a tab behind it. What is retained, all find in the table.
      for message in
        select l.* from (select * from pgws.passing_0 union all select * from pgws.passing_1) l
        where l.position > coalesce(pg_sequence_last_value('pgws.announced'), 0) and not l.notified order by l.position
      loop
        if octet_length(message.body) < 7999 then
          perform pg_notify(s.listen_channel, message.body || chr(9)) from pgws.settings s;
        else
          insert into pgws.large (channel, body) values (message.channel, message.body) returning id into large_id;
          perform pg_notify(s.listen_channel,
            json_build_object('pgws', 'large', 'position', large_id, 'channel', pgws.short(message.channel))::text || chr(9))
            from pgws.settings s;
        end if;
      end loop;
      perform setval('pgws.announced', last_place);
    end if;
    perform setval('pgws.announcing', mode);
  end if;
end $$;
