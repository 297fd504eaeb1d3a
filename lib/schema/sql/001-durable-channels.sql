-- Durable channels. Positions are handed out at commit, under one lock, so that position order is commit order is
-- notification order:
--
-- - A row that SQL inserts has no position. A deferred trigger (`flush_later`) queues another one
--   (`flush`), which so runs after all deferred triggers of the caller's own; it takes the lock, hands out the
--   positions and notifies. The lock is held from there to the end of the commit only. (One trigger alone would
--   hold it while the caller's deferred triggers wait for row locks: a deadlock.)
-- - The server's own statements are transactions of their own, and take the lock at once (`relay`).
--
-- The lock is a table's, since any role may take an advisory lock and keep it; and no row's, since updating a
-- counter fails in serializable transactions.

create schema pgws;
comment on schema pgws is 'Durable channels of fastify-pg-websockets.';

create table pgws.settings (
  only_row boolean primary key default true check (only_row),
  version integer not null,
  -- 8 hexadecimal digits; later ones compare later.
  epoch text not null default lpad(to_hex(extract(epoch from clock_timestamp())::bigint), 8, '0'),
  listen_channel text not null,
  -- Grows with each change of pgws.retention, so that nobody acts on an old copy.
  retention_version bigint not null default 1
);

create table pgws.retention (
  pattern text primary key,
  expression text not null,
  max_age interval not null check (max_age > interval '0'),
  max_messages bigint check (max_messages > 0)
);

create sequence pgws.positions;

create table pgws.messages (
  position bigint,
  channel text not null,
  -- The envelope, as it is notified, without its id.
  body text not null,
  created_at timestamptz not null default clock_timestamp(),
  expires_at timestamptz not null,
  -- What makes a message that is sent again the same one.
  key text,
  -- The transaction that inserted it, and the order within; until it commits.
  transaction bigint,
  ordinal bigint
) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.2, autovacuum_vacuum_cost_delay = 0);
create sequence pgws.ordinals;
create unique index messages_position on pgws.messages (position) where position is not null;
create index messages_channel on pgws.messages (channel, position) where position is not null;
create index messages_expires on pgws.messages (expires_at) where position is not null;
create unique index messages_key on pgws.messages (key) where key is not null;
create index messages_transaction on pgws.messages (transaction) where position is null;

-- What is too large for a notification and kept for no other reason.
create table pgws.large (
  id bigint primary key generated always as identity,
  channel text not null,
  body text not null,
  created_at timestamptz not null default clock_timestamp()
);
create index large_created on pgws.large (created_at);

-- Up to which position messages of a channel are gone; and of channels that are not here any more.
create table pgws.trimmed (
  channel text primary key,
  position bigint not null,
  trimmed_at timestamptz not null default now()
);
create table pgws.forgotten (position bigint not null);
insert into pgws.forgotten values (0);

create table pgws.commit_lock ();
create table pgws.flushes (transaction bigint not null)
  with (autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0);

-- Which is the largest message, in bytes; what is larger is told of, and not delivered.
create function pgws.max_bytes() returns integer language sql immutable as 'select 64 * 1024 * 1024';

-- The regular expression of a pattern: * any characters but ':', ** any.
create function pgws.pattern_expression(pattern text) returns text language sql immutable as $$
  select '^(?:' || replace(replace(replace(
    regexp_replace(pattern, '([.\\+?^$(){}|\[\]])', '\\\1', 'g'),
    '**', E'\x01'), '*', '[^:]*'), E'\x01', '.*') || ')$'
$$;

-- How long messages of a channel are kept; null: it is not durable.
create function pgws.max_age(channel text) returns interval language sql stable as $$
  select max(r.max_age) from pgws.retention r where $1 ~ r.expression
$$;

create function pgws.message_id(place bigint) returns text language sql stable as $$
  select s.epoch || '-' || lpad(to_hex($1), 16, '0') from pgws.settings s
$$;

-- A channel's name in a reference, where it fits: a server with no reader need not read the row then.
create function pgws.short(channel text) returns text language sql immutable as $$
  select case when octet_length(channel) <= 1000 then channel end
$$;

-- The envelope of a durable message as it is notified: whole, or a reference where it does not fit. (Without a search
-- path of its own, as all that only our functions call: so it is inlined.)
create function pgws.notification(epoch text, place bigint, channel text, body text) returns text
language sql stable as $$
  select case
    when octet_length(body) + 36 < 8000
      then '{"id":"' || epoch || '-' || lpad(to_hex(place), 16, '0') || '",' || substr(body, 2)
    else json_build_object('pgws', 'message', 'position', place, 'channel', pgws.short(channel))::text
  end
$$;

create function pgws.envelope(channel text, payload text, event text, more text default '') returns text
language sql volatile set search_path = pg_catalog as $$
  select '{"event":' || to_json(coalesce(event, 'Message')) || ',"channel":' || to_json(channel)
    || ',"payload":' || coalesce(payload, 'null')
    || ',"claims":{"message_delivered_at":' || round(extract(epoch from clock_timestamp())::numeric, 6) || '}' || more || '}'
$$;

-- Sends an envelope in the caller's transaction.
create function pgws.send(channel text, body text) returns void
language plpgsql set search_path = pg_catalog as $$
declare
  age interval;
  large_id bigint;
begin
  if channel is null then return; end if;
  if octet_length(body) > pgws.max_bytes() then
    body := pgws.envelope(channel, json_build_object('bytes', octet_length(body), 'limit', pgws.max_bytes())::text, 'TooLarge');
  end if;
  age := pgws.max_age(channel);
  if age is not null then
    insert into pgws.messages (channel, body, expires_at, transaction, ordinal)
      values (channel, body, clock_timestamp() + age, txid_current(), nextval('pgws.ordinals'));
  elsif octet_length(body) < 8000 then
    perform pg_notify(s.listen_channel, body) from pgws.settings s;
  else
    insert into pgws.large (channel, body) values (channel, body) returning id into large_id;
    perform pg_notify(s.listen_channel,
      json_build_object('pgws', 'large', 'position', large_id, 'channel', pgws.short(channel))::text)
      from pgws.settings s;
  end if;
end $$;

create function pgws.publish(channel text, payload jsonb, event text default 'Message') returns void
language plpgsql security definer set search_path = pg_catalog as $$
begin
  perform pgws.send(channel, pgws.envelope(channel, payload::text, event));
end $$;

create function pgws.publish_text(channel text, payload text, event text default 'Message') returns void
language plpgsql security definer set search_path = pg_catalog as $$
begin
  perform pgws.send(channel, pgws.envelope(channel, to_json(payload)::text, event));
end $$;

create function pgws.publish_bytes(channel text, payload bytea) returns void
language plpgsql security definer set search_path = pg_catalog as $$
begin
  perform pgws.send(channel, pgws.envelope(channel,
    to_json(replace(encode(payload, 'base64'), E'\n', ''))::text, 'Bytes', ',"encoding":"base64"'));
end $$;

create function pgws.flush_later() returns trigger
language plpgsql security definer set search_path = pg_catalog as $$
begin
  if current_setting('pgws.flushing', true) is distinct from txid_current()::text then
    perform set_config('pgws.flushing', txid_current()::text, true);
    insert into pgws.flushes (transaction) values (txid_current());
  end if;
  return null;
end $$;

create function pgws.flush() returns trigger
language plpgsql security definer set search_path = pg_catalog as $$
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
  select count(pg_notify(s.listen_channel, pgws.notification(s.epoch, p.position, p.channel, p.body))) into strict new.transaction
  from (select * from placed order by position) p, pgws.settings s;
  return null;
end $$;

create constraint trigger flush_later after insert on pgws.messages
  deferrable initially deferred for each row when (new.position is null) execute function pgws.flush_later();
create constraint trigger flush after insert on pgws.flushes
  deferrable initially deferred for each row execute function pgws.flush();
-- Whatever session_replication_role says: a message without a position would never be delivered.
alter table pgws.messages enable always trigger flush_later;
alter table pgws.flushes enable always trigger flush;

-- What the server sends, in a transaction of its own: notifies each body, and stores those with an age. A key that
-- is there already was sent before, and is passed over. Answers the number that was stored, or null where the
-- server's copy of pgws.retention is old: then nothing was done.
create function pgws.relay(retention_version bigint, listen_channel text, channels text[], bodies text[], ages interval[], keys text[])
returns bigint language plpgsql security definer set search_path = pg_catalog as $$
declare
  stored_count bigint;
  notified bigint;
  epoch text;
begin
  select s.epoch into epoch from pgws.settings s where s.retention_version = relay.retention_version;
  if epoch is null then return null; end if;
  if exists (select from unnest(ages) age where age is not null) then
    lock table pgws.commit_lock in exclusive mode;
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
  select count(position), count(pg_notify(relay.listen_channel, notification)) into stored_count, notified
  from (
    select d.position, case
      when d.position is not null then pgws.notification(epoch, d.position, i.channel, i.body)
      when l.id is not null then json_build_object('pgws', 'large', 'position', l.id, 'channel', pgws.short(i.channel))::text
      else i.body end as notification
    from input i left join durable d on d.key = i.key left join numbered_large l on l.n = i.n
    where i.age is null or d.position is not null
    order by i.n
  ) ordered;
  return stored_count;
end $$;

create function pgws.changed() returns void language sql set search_path = pg_catalog as $$
  update pgws.settings set retention_version = retention_version + 1;
  select pg_notify('pgws', 'settings');
$$;

create function pgws.retain(pattern text, max_age interval, max_messages bigint default null) returns void
language plpgsql set search_path = pg_catalog as $$
#variable_conflict use_variable
begin
  insert into pgws.retention as r values (pattern, pgws.pattern_expression(pattern), max_age, max_messages)
    on conflict on constraint retention_pkey do update
    set max_age = excluded.max_age, max_messages = excluded.max_messages;
  -- What was stored under another age.
  update pgws.messages m set expires_at = m.created_at + pgws.max_age(m.channel)
    where m.channel ~ pgws.pattern_expression(pattern)
    and m.expires_at is distinct from m.created_at + pgws.max_age(m.channel);
  perform pgws.changed();
end $$;

create function pgws.unretain(pattern text) returns void language plpgsql set search_path = pg_catalog as $$
#variable_conflict use_variable
begin
  delete from pgws.retention r where r.pattern = pattern;
  update pgws.messages m set expires_at = '-infinity'
    where m.channel ~ pgws.pattern_expression(pattern) and pgws.max_age(m.channel) is null;
  perform pgws.changed();
end $$;

create function pgws.new_epoch() returns text language plpgsql set search_path = pg_catalog as $$
declare
  fresh text;
begin
  update pgws.settings set epoch = greatest(
    lpad(to_hex(extract(epoch from clock_timestamp())::bigint), 8, '0'),
    lpad(to_hex(('x' || epoch)::bit(32)::bigint + 1), 8, '0')
  ) returning epoch into fresh;
  perform pgws.changed();
  return fresh;
end $$;

create function pgws.history(channel text, since text default null, limit_ integer default 100)
returns table (id text, message text, created_at timestamptz)
language sql stable set search_path = pg_catalog as $$
  select pgws.message_id(m.position), m.body, m.created_at from pgws.messages m
  where m.channel = $1 and m.position is not null and m.expires_at > clock_timestamp()
    and (since is null or pgws.message_id(m.position) > since)
  order by m.position limit limit_
$$;

-- Deletes what is too old or too many, some of it at a time, and by one session at a time. Answers how many rows;
-- null where another session does it.
create function pgws.clean(rows integer default 5000) returns integer
language plpgsql security definer set search_path = pg_catalog as $$
declare
  old_rows integer;
  large_rows integer;
  surplus integer := 0;
  busy record;
  removed integer;
begin
  if not pg_try_advisory_xact_lock(hashtext('pgws.clean'), 0) then return null; end if;
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

-- Turns a table's changes into messages. Arguments: the channel's template, the columns as a JSON list or 'null'.
create function pgws.tell() returns trigger
language plpgsql security definer set search_path = pg_catalog as $$
declare
  columns jsonb := tg_argv[1]::jsonb;
  fresh jsonb;
  old_record jsonb;
  body text;
  one text;
  other text;
begin
  if tg_op in ('INSERT', 'UPDATE') then fresh := to_jsonb(new); end if;
  if tg_op in ('UPDATE', 'DELETE') then old_record := to_jsonb(old); end if;
  one := pgws.fill(tg_argv[0], coalesce(fresh, old_record));
  other := pgws.fill(tg_argv[0], coalesce(old_record, fresh));
  if columns <> 'null' then
    fresh := (select jsonb_object_agg(key, value) from jsonb_each(fresh) where columns ? key);
    old_record := (select jsonb_object_agg(key, value) from jsonb_each(old_record) where columns ? key);
    if tg_op = 'UPDATE' and fresh is not distinct from old_record and one = other then return null; end if;
  end if;
  body := json_build_object('operation', tg_op, 'schema', tg_table_schema, 'table', tg_table_name,
    'record', fresh, 'old_record', old_record)::text;
  perform pgws.send(one, pgws.envelope(one, body, 'Change'));
  if other is distinct from one then
    perform pgws.send(other, pgws.envelope(other, body, 'Change'));
  end if;
  return null;
end $$;

-- A template with each {column} replaced by the row's value.
create function pgws.fill(template text, record jsonb) returns text
language plpgsql immutable set search_path = pg_catalog as $$
declare
  filled text := '';
  rest text := template;
  start integer;
  stop integer;
begin
  loop
    start := strpos(rest, '{');
    stop := strpos(substr(rest, start + 1), '}');
    exit when start = 0 or stop = 0;
    filled := filled || left(rest, start - 1)
      || coalesce(record ->> substr(rest, start + 1, stop - 1), '');
    rest := substr(rest, start + stop + 1);
  end loop;
  return filled || rest;
end $$;

create function pgws.watch(target regclass, channel text, events text[] default '{INSERT,UPDATE,DELETE}',
  columns text[] default null, condition text default null) returns void
language plpgsql set search_path = pg_catalog as $$
#variable_conflict use_variable
declare
  event text;
  row_name text;
begin
  perform pgws.unwatch(target, channel);
  foreach event in array events loop
    event := upper(event);
    if event not in ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE') then
      raise exception 'pgws.watch: unknown event %', event using hint = 'Known are INSERT, UPDATE, DELETE and TRUNCATE.';
    end if;
    row_name := case event when 'DELETE' then 'OLD' else 'NEW' end;
    execute format('create trigger %I after %s on %s for each %s %s execute function pgws.tell(%L, %L)',
      'pgws_' || lower(event) || '_' || md5(channel), event, target,
      case event when 'TRUNCATE' then 'statement' else 'row' end,
      case when condition is null or event = 'TRUNCATE' then ''
        else 'when (' || regexp_replace(condition, '\mrecord\.', row_name || '.', 'gi') || ')' end,
      channel, coalesce(to_json(columns), 'null'));
  end loop;
end $$;

create function pgws.unwatch(target regclass, channel text default null) returns void
language plpgsql set search_path = pg_catalog as $$
#variable_conflict use_variable
declare
  name text;
begin
  for name in
    select t.tgname from pg_trigger t
    where t.tgrelid = target and not t.tgisinternal and t.tgname like 'pgws\_%'
      and (channel is null or t.tgname like '%\_' || md5(channel))
  loop
    execute format('drop trigger %I on %s', name, target);
  end loop;
end $$;

revoke all on all functions in schema pgws from public;
-- Whoever owns a table may watch it.
grant usage on schema pgws to public;
grant execute on function pgws.watch, pgws.unwatch, pgws.tell to public;

do $$
declare
  role text;
begin
  foreach role in array array['pgws_publisher', 'pgws_server'] loop
    begin
      if not exists (select from pg_roles where rolname = role) then
        execute format('create role %I nologin', role);
      end if;
    exception when insufficient_privilege or duplicate_object or unique_violation then
      raise notice 'pgws: role % was not created; create it, then run "fastify-pg-websockets migrate" again', role;
    end;
  end loop;
  if exists (select from pg_roles where rolname = 'pgws_publisher') then
    grant execute on function pgws.publish, pgws.publish_text, pgws.publish_bytes to pgws_publisher;
  end if;
  if exists (select from pg_roles where rolname = 'pgws_server') then
    grant execute on function pgws.relay, pgws.clean, pgws.message_id, pgws.history, pgws.max_age to pgws_server;
    grant select on pgws.settings, pgws.retention, pgws.messages, pgws.large, pgws.positions, pgws.trimmed, pgws.forgotten to pgws_server;
  end if;
end $$;
