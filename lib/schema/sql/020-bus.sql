-- Where a bus carries messages between servers (option `bus`), the database gives positions and stores, and does not notify.
--
-- Whether there is a bus is decided by the sequencer's server, and kept here, so that every server publishes in the same way,
-- whatever its own options and its release. With a bus, all messages have positions: those of channels that nobody retains
-- are kept for some seconds in two tables that are used in turn, so that what a bus loses is read from here, whatever channel
-- it is of. The sequencer's server announces everything behind a mark, and then moves the mark: a message may be announced
-- twice, and servers drop what they have heard.

-- 1, or never called: the database announces by NOTIFY. 2: the sequencer's server announces over a bus. A sequence, because
-- its value is seen at once, whatever the snapshot. It is changed under pgws.commit_lock only.
create sequence pgws.announcing minvalue 1 maxvalue 2;
-- The mark: everything up to this position was announced over the bus.
create sequence pgws.announced minvalue 0 start 0;
-- Which of the two tables is written: 0 or 1.
create sequence pgws.passing_state minvalue 0 maxvalue 1 start 0;
create table pgws.passing_0 (
  position bigint primary key,
  channel text not null,
  body text not null,
  -- By which a publisher finds its message again, where it asks for the number of deliveries.
  key text,
  published_at timestamptz not null default clock_timestamp()
) with (autovacuum_enabled = off, toast.autovacuum_enabled = off);
create table pgws.passing_1 (like pgws.passing_0 including defaults including indexes)
  with (autovacuum_enabled = off, toast.autovacuum_enabled = off);
revoke all on pgws.announcing, pgws.announced, pgws.passing_state, pgws.passing_0, pgws.passing_1 from public;
comment on sequence pgws.announcing is 'Whether messages are announced by NOTIFY (1) or over a bus (2).';
comment on sequence pgws.announced is 'The position up to which messages were announced over the bus.';
comment on sequence pgws.passing_state is 'Which table of passing messages is written.';
comment on table pgws.passing_0 is 'Messages of channels that nobody retains, for some seconds, where a bus announces them.';
comment on table pgws.passing_1 is 'The second table like pgws.passing_0. The two are used in turn.';

create function pgws.by_bus() returns boolean language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  select coalesce(pg_sequence_last_value('pgws.announcing'), 1) = 2
$$;

-- Gives positions to messages in their order, and stores them. To be called with pgws.commit_lock, so that positions become
-- visible in their order. Returns how many are new: a message whose key is stored already is left out.
create function pgws.store(channels text[], bodies text[], ages interval[], keys text[], times timestamptz[]) returns integer
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
    insert into pgws.passing_0 (position, channel, body, key)
    select p.position, p.channel, p.body, p.key from placed p where p.age is null and used = 0
  ), passing_1 as (
    insert into pgws.passing_1 (position, channel, body, key)
    select p.position, p.channel, p.body, p.key from placed p where p.age is null and used = 1
  )
  select count(*) into found_count from placed;
  return found_count;
end $$;

-- As pgws.announce, for a bus: what has become visible gets positions and is stored.
create function pgws.place(snapshot pg_snapshot, upto pg_snapshot, after bigint, cut bigint, since timestamptz) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
#variable_conflict use_column
begin
  return (
    with visible as materialized (
      select u.*, max(u.ordinal) over (partition by u.transaction) as last_ordinal from pgws.unannounced(place.snapshot, upto) u
    ), taken as materialized (
      select v.last_ordinal, v.ordinal, v.channel, v.body, v.published_at from visible v
      where v.last_ordinal > after and (cut is null or v.last_ordinal <= cut)
    ), rules as materialized (
      select c.channel, pgws.max_age(c.channel) as age from (select distinct t.channel from taken t) c
    ), numbered as (
      select t.*, r.age from taken t join rules r on r.channel = t.channel
      where r.age is not null or place.since is null or t.published_at >= place.since
    )
    select coalesce(pgws.store(array_agg(n.channel order by n.last_ordinal, n.ordinal), array_agg(n.body order by n.last_ordinal, n.ordinal),
      array_agg(n.age order by n.last_ordinal, n.ordinal), null, array_agg(n.published_at order by n.last_ordinal, n.ordinal)), 0)
    from numbered n having count(*) > 0
  );
end $$;

-- As before; with a bus, it places.
create or replace function pgws.round(since timestamptz, out announced integer, out more boolean)
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '4s' set enable_seqscan = off as $$
declare
  -- Of messages, and of bytes.
  most constant integer := 20000;
  most_bytes constant integer := 16777216;
  last pgws.rounds;
  upto pg_snapshot;
  cut bigint;
begin
  -- In one order with what servers publish for their clients.
  lock table pgws.commit_lock in exclusive mode;
  select * into last from pgws.rounds r order by r.number desc limit 1;
  if pg_snapshot_xmax(last.snapshot) > pg_snapshot_xmax(pg_current_snapshot()) then
    perform pgws.begin_anew(last);
    announced := 0;
    more := true;
    return;
  end if;
  -- Before the first round everything is new.
  last.snapshot := coalesce(last.snapshot, '1:1:');
  upto := coalesce(last.next_snapshot, pg_current_snapshot());
  if last.next_snapshot is not null or (
    select count(*) > most or sum(u.size) > most_bytes
    from (select octet_length(u.body) as size from pgws.unannounced(last.snapshot, upto) u limit most + 1) u
  ) then
    -- A backlog: as many whole transactions as fit, though at least one.
    select max(t.last_ordinal) into cut from (
      select g.last_ordinal, row_number() over w as number, sum(g.messages) over w as messages, sum(g.bytes) over w as bytes from (
        select max(u.ordinal) as last_ordinal, count(*) as messages, sum(octet_length(u.body)) as bytes
        from pgws.unannounced(last.snapshot, upto) u
        group by u.transaction having max(u.ordinal) > coalesce(last.announced_to, 0)
      ) g window w as (order by g.last_ordinal)
    ) t where t.number = 1 or t.messages <= most and t.bytes <= most_bytes;
  end if;
  if pgws.by_bus() then
    announced := coalesce(pgws.place(last.snapshot, upto, coalesce(last.announced_to, 0), cut, round.since), 0);
  else
    announced := pgws.announce(last.snapshot, upto, coalesce(last.announced_to, 0), cut, round.since);
  end if;
  more := cut is not null;
  if more then
    insert into pgws.rounds (snapshot, next_snapshot, announced_to) values (last.snapshot, upto, cut);
  elsif announced > 0 or last.next_snapshot is not null or last.number is null then
    insert into pgws.rounds (snapshot) values (upto);
  end if;
end $$;

-- As pgws.relay was: without a bus.
do $$
begin
  execute pg_catalog.replace(pg_catalog.replace(
    pg_catalog.pg_get_functiondef('pgws.relay'::pg_catalog.regproc),
    'FUNCTION pgws.relay(', 'FUNCTION pgws.relay_by_notify('), ' relay.', ' relay_by_notify.');
end $$;

-- Publishes the messages that a server sends. With `sql`, what nobody retains is also notified where a bus announces it, so
-- that whoever listens in SQL hears it. A tab behind it says to servers that the message comes over the bus, too. (Behind JSON,
-- it means nothing: RFC 8259, section 2.)
create function pgws.relay_as(retention_version bigint, listen_channel text, channels text[], bodies text[], ages interval[], keys text[], sql boolean)
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
  stored := pgws.store(channels, bodies, ages, keys, null);
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

create or replace function pgws.relay(retention_version bigint, listen_channel text, channels text[], bodies text[], ages interval[], keys text[])
returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '4s' as $$
begin
  return pgws.relay_as(retention_version, listen_channel, channels, bodies, ages, keys, true);
end $$;

create function pgws.relay_quietly(retention_version bigint, listen_channel text, channels text[], bodies text[], ages interval[], keys text[])
returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '4s' as $$
begin
  return pgws.relay_as(retention_version, listen_channel, channels, bodies, ages, keys, false);
end $$;

-- What functions of the owner have let pass goes the same way.
do $$
declare
  before constant text := pg_catalog.pg_get_functiondef('pgws.handle'::pg_catalog.regproc);
  after constant text := pg_catalog.replace(pg_catalog.replace(before,
    'where database_channel is null and (octet_length(o.body) >= 8000 or ',
    'where database_channel is null and (pgws.by_bus() or octet_length(o.body) >= 8000 or '),
    'array_agg(case when pgws.max_age(channel) is not null then key end order by n)',
    'array_agg(case when pgws.by_bus() or pgws.max_age(channel) is not null then key end order by n)');
begin
  if pg_catalog.length(after) <> pg_catalog.length(before) + 2 * pg_catalog.length('pgws.by_bus() or ') then
    raise 'pgws.handle is not that of the migration 005';
  end if;
  execute after;
end $$;

-- What was stored behind a position, in order: the messages of retained channels and those that are passing.
create function pgws.log(beyond bigint, rows integer)
returns table (place bigint, channel text, body text, durable boolean)
language sql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off as $$
  select l.position, l.channel, l.body, l.durable from (
    (select m.position, m.channel, m.body, true as durable from pgws.messages m where m.position > beyond order by m.position limit rows)
    union all
    (select p.position, p.channel, p.body, false from pgws.passing_0 p where p.position > beyond order by p.position limit rows)
    union all
    (select q.position, q.channel, q.body, false from pgws.passing_1 q where q.position > beyond order by q.position limit rows)
  ) l order by l.position limit rows
$$;

-- The position up to which everything is stored, passing messages included. It never goes back, though they go.
create function pgws.last_place() returns bigint
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  select greatest(pgws.last_position(), pg_sequence_last_value('pgws.announced'),
    (select max(p.position) from pgws.passing_0 p), (select max(q.position) from pgws.passing_1 q))
$$;

-- Says that everything up to a position was announced over the bus. Returns the mark; null if another server is the sequencer.
create function pgws.mark(node text, term bigint, place bigint) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  current_mark constant bigint := coalesce(pg_sequence_last_value('pgws.announced'), 0);
begin
  if not pgws.by_bus() or not exists (select from pgws.sequencer s where s.node = mark.node and s.term = mark.term) then return null; end if;
  if place > current_mark then
    perform setval('pgws.announced', place);
    return place;
  end if;
  return current_mark;
end $$;

-- Uses the other table for passing messages if this one has messages older than half a minute, and the other one can be
-- emptied: it waits for nobody.
create function pgws.turn_passing(node text, term bigint) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  used constant bigint := coalesce(pg_sequence_last_value('pgws.passing_state'), 0);
  name constant text := 'pgws.passing_' || 1 - used;
  first_time timestamptz;
  last_place bigint;
begin
  if not exists (select from pgws.sequencer s where s.node = turn_passing.node and s.term = turn_passing.term) then return false; end if;
  execute 'select p.published_at from pgws.passing_' || used || ' p order by p.position limit 1' into first_time;
  if first_time is null or first_time > clock_timestamp() - interval '30 seconds' then return false; end if;
  execute 'select max(p.position) from ' || name || ' p' into last_place;
  if last_place > coalesce(pg_sequence_last_value('pgws.announced'), 0) then return false; end if;
  if last_place is not null then
    begin
      execute 'lock table ' || name || ' in access exclusive mode nowait';
      execute 'truncate ' || name;
    exception when lock_not_available then
      return false;
    end;
  end if;
  lock table pgws.commit_lock in exclusive mode;
  perform setval('pgws.passing_state', 1 - used);
  return true;
end $$;

-- The positions of messages that were published with keys, behind a position.
create function pgws.places(beyond bigint, keys text[]) returns table (place bigint, channel text)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select m.position, m.channel from pgws.messages m where m.key = any (keys) and m.position > beyond
  union all
  select p.position, p.channel from pgws.passing_0 p where p.position > beyond and p.key = any (keys)
  union all
  select q.position, q.channel from pgws.passing_1 q where q.position > beyond and q.key = any (keys)
$$;

-- As pgws.lead was, and says how messages are announced from now on.
create function pgws.lead_as(node text, patience interval, mode bigint, out term bigint, out absence interval)
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '4s' as $$
declare
  before pgws.sequencer;
  this_database constant text := (select c.system_identifier from pg_control_system() c)
    || '/' || (select d.oid from pg_database d where d.datname = current_database());
  message record;
  large_id bigint;
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
      -- What has not been announced over the bus, or is not known to have been. Servers with a bus drop what has a tab behind it:
      -- the next announcement, or beat, shows them that they lack positions, which they read from the table. That finds what is
      -- retained for all other servers, too.
      for message in select * from pgws.log(coalesce(pg_sequence_last_value('pgws.announced'), 0), 1000000) l where not l.durable loop
        if octet_length(message.body) < 7999 then
          perform pg_notify(s.listen_channel, message.body || chr(9)) from pgws.settings s;
        else
          insert into pgws.large (channel, body) values (message.channel, message.body) returning id into large_id;
          perform pg_notify(s.listen_channel,
            json_build_object('pgws', 'large', 'position', large_id, 'channel', pgws.short(message.channel))::text || chr(9))
            from pgws.settings s;
        end if;
      end loop;
      perform setval('pgws.announced', pgws.last_place());
    end if;
    perform setval('pgws.announcing', mode);
  end if;
end $$;

create or replace function pgws.lead(node text, patience interval, out term bigint, out absence interval)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  select l.term, l.absence into term, absence from pgws.lead_as(node, patience, 1) l;
end $$;

create function pgws.lead_bus(node text, patience interval, out term bigint, out absence interval)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  select l.term, l.absence into term, absence from pgws.lead_as(node, patience, 2) l;
end $$;

-- As before. Servers of this release listen to pgws_sequencer only while they are the sequencer, so that a writer that finds it
-- asleep wakes no other.
create or replace function pgws.resign(node text, term bigint) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  update pgws.sequencer s set until = clock_timestamp() where s.node = resign.node and s.term = resign.term;
  if found then
    perform pg_notify('pgws_sequencer', 'vacant');
    perform pg_notify('pgws_vacancy', '');
  end if;
end $$;

revoke execute on function pgws.by_bus, pgws.store, pgws.place, pgws.relay_by_notify, pgws.relay_as, pgws.relay_quietly, pgws.log,
  pgws.last_place, pgws.mark, pgws.turn_passing, pgws.places, pgws.lead_as, pgws.lead_bus from public;
-- Who may run a server may do so with a bus.
do $$
declare
  server pg_catalog.regrole;
begin
  for server in
    select a.grantee from pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a
    where p.oid = 'pgws.relay'::pg_catalog.regproc and a.privilege_type = 'EXECUTE' and a.grantee <> 0 and a.grantee <> p.proowner
  loop
    execute pg_catalog.format('grant execute on function pgws.relay_quietly, pgws.by_bus, pgws.log, pgws.last_place,
      pgws.mark, pgws.turn_passing, pgws.places, pgws.lead_bus to %s', server);
  end loop;
end $$;

comment on function pgws.by_bus is 'Returns whether messages are announced over a bus. For: pgws_server.';
comment on function pgws.store is 'Gives positions to messages and stores them, for a bus. For: the owner.';
comment on function pgws.place is 'Stores what was published, for a bus. For: the owner.';
comment on function pgws.relay_by_notify is 'Stores and notifies the messages that a server sends. For: the owner.';
comment on function pgws.relay_as is 'Publishes the messages that a server sends. For: the owner.';
comment on function pgws.relay_quietly is 'As pgws.relay. With a bus, SQL sessions that listen are not notified. For: pgws_server.';
comment on function pgws.log is 'Returns the stored messages of all channels after a position, also those that are kept for some seconds. For: pgws_server.';
comment on function pgws.last_place is 'Returns the last position, also of messages that are kept for some seconds. For: pgws_server.';
comment on function pgws.mark is 'Notes up to where the sequencer has announced over the bus, and returns it. For: pgws_server.';
comment on function pgws.turn_passing is 'Empties the older table of messages that are kept for some seconds. For: pgws_server.';
comment on function pgws.places is 'Returns the positions of messages that were published with keys. For: pgws_server.';
comment on function pgws.lead_as is 'Makes a server the sequencer. For: the owner.';
comment on function pgws.lead_bus is 'Makes a server the sequencer, which announces over a bus. For: pgws_server.';
