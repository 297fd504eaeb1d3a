-- What is missing on its way to a server, the server notices by itself: before the notifications of durable messages, each
-- transaction announces their positions, and the position before them.
--
-- On a database channel of its own, so that messages stay as they are: servers of earlier releases do not listen to it, and
-- clients have nothing to be shown. Signed with a secret that only the servers can read, because any role may notify anything.
-- The position before them is that of any channel, not of the channels of the messages: a reader of several channels gets
-- them in the order of their ids, so that nothing newer may be delivered to it, of whatever channel.

-- No column of pgws.settings: to add one would lock out all who publish, and could deadlock with them.
create table pgws.secret (
  only_row boolean primary key default true check (only_row),
  secret text not null default gen_random_uuid()::text
);
insert into pgws.secret default values;
revoke all on pgws.secret from public;
comment on table pgws.secret is 'One row: the secret that announcements are signed with.';
do $$
declare
  reader pg_catalog.regrole;
begin
  for reader in
    select a.grantee from pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
    where c.oid = 'pgws.settings'::pg_catalog.regclass and a.privilege_type = 'SELECT' and a.grantee <> 0
      and a.grantee <> c.relowner
  loop
    execute pg_catalog.format('grant select on pgws.secret to %s', reader);
  end loop;
end $$;

-- The positions first to last are announced next on a listen channel, without some, which are given relative to the first
-- (numbers, separated by commas). Before them, everything up to previous was announced. (Or more, if the last messages have been
-- deleted: this is asked for so often that it must cost no more than a look at one index.)
create function pgws.announcement(secret text, listen_channel text, previous bigint, first bigint, last bigint, without text default null)
returns text language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  words constant text := concat_ws(' ', previous, first, last, coalesce(without, '-'), listen_channel);
begin
  -- The secret comes last: a hash of secret and words could be continued with further words.
  return encode(sha256(convert_to(words || secret, 'UTF8')), 'hex') || ' ' || words;
end $$;

-- Says up to where was announced, if that is beyond a position: a server that has heard less lacks the last messages.
create function pgws.beat(beyond bigint) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  latest constant bigint := pgws.last_position();
begin
  if latest > beyond then
    -- All that this snapshot sees has been notified before.
    perform pg_notify('pgws_announcements', pgws.announcement(k.secret, s.listen_channel, latest, latest + 1, latest))
      from pgws.settings s, pgws.secret k;
  end if;
  return latest;
end $$;

-- As before, and the announcement first.
create or replace function pgws.announce(snapshot pg_snapshot, upto pg_snapshot, after bigint, cut bigint, since timestamptz) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
#variable_conflict use_column
declare
  found_count integer;
  notified bigint;
begin
  with visible as materialized (
    select u.*, max(u.ordinal) over (partition by u.transaction) as last_ordinal from pgws.unannounced(announce.snapshot, upto) u
  ), taken as materialized (
    select v.last_ordinal, v.ordinal, v.channel, v.body, v.published_at from visible v
    where v.last_ordinal > after and (cut is null or v.last_ordinal <= cut)
  ), rules as materialized (
    select c.channel, pgws.max_age(c.channel) as age from (select distinct t.channel from taken t) c
  ), numbered as materialized (
    select t.*, r.age,
      -- PostgreSQL folds equal notifications of a transaction into one. Blanks behind JSON mean nothing. (What has an id is
      -- unlike all others, and hashes are quicker to compare than texts: where two are equal, there is a blank too many.)
      case when r.age is null and octet_length(t.body) < 8000 then row_number() over (
        partition by t.channel, case when r.age is null and octet_length(t.body) < 8000 then hashtextextended(t.body, 0) end
        order by t.last_ordinal, t.ordinal
      ) - 1 else 0 end as copies
    from taken t join rules r on r.channel = t.channel
    where r.age is not null or announce.since is null or t.published_at >= announce.since
  ), placed as materialized (
    select n.*, case when n.age is not null then nextval('pgws.positions')
      when octet_length(n.body) + n.copies >= 8000 then nextval('pgws.large_id_seq') end as place
    from (select * from numbered order by last_ordinal, ordinal) n
  ), stored as (
    insert into pgws.messages (position, channel, body, created_at, expires_at)
    select p.place, p.channel, p.body, p.published_at, p.published_at + p.age from placed p where p.age is not null
  ), kept as (
    insert into pgws.large (id, channel, body) overriding system value
    select p.place, p.channel, p.body from placed p where p.age is null and p.place is not null
  )
  select count(o.ordinal), count(pg_notify(o.database_channel, o.notification)) into found_count, notified
  from (
    select null::bigint as last_ordinal, null::bigint as ordinal, 'pgws_announcements' as database_channel,
      pgws.announcement(k.secret, s.listen_channel, (select coalesce(max(m.position), 0) from pgws.messages m), d.first, d.last) as notification
    from (select min(p.place) as first, max(p.place) as last from placed p where p.age is not null) d, pgws.settings s, pgws.secret k
    where d.first is not null
    union all
    select p.last_ordinal, p.ordinal, s.listen_channel, case
      when p.age is not null then pgws.notification(s.epoch, p.place, p.channel, p.body)
      when p.place is not null then json_build_object('pgws', 'large', 'position', p.place, 'channel', pgws.short(p.channel))::text
      else p.body || repeat(' ', p.copies::integer) end
    from placed p, pgws.settings s
    order by last_ordinal nulls first, ordinal
  ) o;
  return found_count;
end $$;

-- As before, and the announcement first.
create or replace function pgws.relay(retention_version bigint, listen_channel text, channels text[], bodies text[], ages interval[], keys text[]) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '4s' as $$
declare
  stored_count bigint;
  notified bigint;
  epoch text;
  secret text;
begin
  select s.epoch, k.secret into epoch, secret from pgws.settings s, pgws.secret k where s.retention_version = relay.retention_version;
  if epoch is null then return null; end if;
  if exists (select from unnest(ages) age where age is not null) then
    lock table pgws.commit_lock in exclusive mode;
  end if;
  -- A key that its sender chose may be here twice, and is one message then.
  if array_to_string(keys, ' ') like '%http:%' then
    select array_agg(u.channel order by u.n), array_agg(u.body order by u.n), array_agg(u.age order by u.n), array_agg(u.key order by u.n)
    into channels, bodies, ages, keys
    from (
      select i.*, row_number() over (partition by i.key order by i.n) as occurrence
      from unnest(channels, bodies, ages, keys) with ordinality as i (channel, body, age, key, n)
    ) u
    where u.key is null or u.occurrence = 1;
  end if;
  with input as materialized (
    select * from unnest(channels, bodies, ages, keys) with ordinality as i (channel, body, age, key, n)
  ), durable as (
    insert into pgws.messages (position, channel, body, expires_at, key)
    select nextval('pgws.positions'), d.channel, d.body, clock_timestamp() + d.age, d.key
    from (select * from input where age is not null order by n) d
    on conflict (key) where key is not null do nothing
    returning position, key
  ), large as (
    insert into pgws.large (channel, body)
    select i.channel, i.body from input i where i.age is null and octet_length(i.body) >= 8000 order by i.n
    returning id, channel, body
  ), numbered_large as (
    select l.id, i.n from (select id, row_number() over (order by id) as k from large) l
    join (select n, row_number() over (order by n) as k from input where age is null and octet_length(body) >= 8000) i using (k)
  )
  -- Ordered past the joins, which keep no order of their own.
  select count(position), count(pg_notify(database_channel, notification)) into stored_count, notified
  from (
    select 0 as n, null::bigint as position, 'pgws_announcements' as database_channel,
      pgws.announcement(secret, relay.listen_channel, (select coalesce(max(m.position), 0) from pgws.messages m), s.first, s.last, case
        -- Messages that were here before have used up positions.
        when s.last - s.first between s.size and 1500 then (
          select string_agg((g - s.first)::text, ',') from generate_series(s.first, s.last) g
          where not exists (select from durable d where d.position = g)
        ) end) as notification
    from (select min(d.position) as first, max(d.position) as last, count(*) as size from durable d) s where s.size > 0
    union all
    select i.n, d.position, relay.listen_channel, case
      when d.position is not null then pgws.notification(epoch, d.position, i.channel, i.body)
      when l.id is not null then json_build_object('pgws', 'large', 'position', l.id, 'channel', pgws.short(i.channel))::text
      else i.body end
    from input i left join durable d on d.key = i.key left join numbered_large l on l.n = i.n
    where i.age is null or d.position is not null
    order by n
  ) ordered;
  return stored_count;
end $$;

-- As before, and the announcement first.
create or replace function pgws.flush() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform set_config('pgws.flushing', '', true);
  delete from pgws.flushes f where f.transaction = new.transaction;
  lock table pgws.commit_lock in exclusive mode;
  with mine as materialized (
    select own.row_id, nextval('pgws.positions') as position from (
      select m.ctid as row_id from pgws.messages m
      where m.transaction = new.transaction and m.position is null order by m.ordinal
    ) own
  ), placed as (
    update pgws.messages m set position = mine.position, transaction = null, ordinal = null
    from mine where m.ctid = mine.row_id
    returning m.position, m.channel, m.body
  )
  select count(pg_notify(o.database_channel, o.notification)) into strict new.transaction
  from (
    select 0::bigint as position, 'pgws_announcements' as database_channel,
      pgws.announcement(k.secret, s.listen_channel, (select coalesce(max(m.position), 0) from pgws.messages m), d.first, d.last) as notification
    from (select min(p.position) as first, max(p.position) as last from placed p) d, pgws.settings s, pgws.secret k
    where d.first is not null
    union all
    select p.position, s.listen_channel, pgws.notification(s.epoch, p.position, p.channel, p.body) from placed p, pgws.settings s
    order by position
  ) o;
  return null;
end $$;

revoke execute on function pgws.announcement(text, text, bigint, bigint, bigint, text) from public;
revoke execute on function pgws.beat(bigint) from public;
do $$
begin
  grant execute on function pgws.beat(bigint) to pgws_server;
exception when undefined_object then
  -- Who may create roles does so behind the migrations.
end $$;

comment on function pgws.announcement(text, text, bigint, bigint, bigint, text) is 'Builds the announcement of the positions that are notified next. For: the owner.';
comment on function pgws.beat(bigint) is 'Notifies servers of the last position, if it is beyond another one. Returns it. For: pgws_server.';
