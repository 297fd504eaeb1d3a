-- Publishing from SQL takes no lock: a writer inserts a row into the outbox, and the servers do the rest.
--
-- One server at a time, the sequencer, runs rounds. A round takes what has become visible since the last one, gives it
-- positions, stores it where it is kept, and notifies it, in one transaction: whatever is killed when, each message is
-- announced once. What has become visible is the difference of two snapshots: that of the last round, which is stored, and
-- the round's own (https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-PG-SNAPSHOT). So a transaction that
-- stays open for hours costs one search in an index.
--
-- The outbox is three tables that writers use in turn, and that are truncated in turn: nothing is ever deleted from them,
-- because under a long transaction no vacuum could remove it.
--
-- Servers that are older than this one know nothing of it. Until a first newer one runs, writers do as they did.

-- Which table of the outbox writers use, and whether the sequencer sleeps: 1 + 2 * table + (1 where it sleeps); never called:
-- there was no sequencer yet. A sequence, because its value is seen at once, whatever the snapshot.
create sequence pgws.outbox_state minvalue 1 maxvalue 6;
revoke all on pgws.outbox_state from public;

create table pgws.outbox_0 (
  -- The order in which messages were published.
  ordinal bigint not null default nextval('pgws.ordinals'),
  transaction xid8 not null default pg_current_xact_id(),
  channel text not null,
  body text not null,
  published_at timestamptz not null default clock_timestamp()
) with (autovacuum_enabled = off, toast.autovacuum_enabled = off);
create table pgws.outbox_1 (like pgws.outbox_0 including defaults)
  with (autovacuum_enabled = off, toast.autovacuum_enabled = off);
create table pgws.outbox_2 (like pgws.outbox_0 including defaults)
  with (autovacuum_enabled = off, toast.autovacuum_enabled = off);
create index outbox_0_transaction on pgws.outbox_0 (transaction);
create index outbox_1_transaction on pgws.outbox_1 (transaction);
create index outbox_2_transaction on pgws.outbox_2 (transaction);
revoke all on pgws.outbox_0, pgws.outbox_1, pgws.outbox_2 from public;

-- The rounds that announced something. The last one counts; a row is never updated, for the same reason.
create table pgws.rounds (
  number bigint generated always as identity primary key,
  -- What is visible in it has been announced ...
  snapshot pg_snapshot not null,
  -- ... and where the round left something for the next ones, so has of what is visible in this one all up to an ordinal.
  next_snapshot pg_snapshot,
  announced_to bigint,
  ended_at timestamptz not null default clock_timestamp()
) with (autovacuum_enabled = off);
revoke all on pgws.rounds from public;

-- One row: which server is the sequencer, until when, and of which database.
create table pgws.sequencer (
  only_row boolean primary key default true check (only_row),
  node text,
  -- Grows whenever another one takes over.
  term bigint not null default 0,
  until timestamptz not null default clock_timestamp(),
  database text
) with (fillfactor = 10);
insert into pgws.sequencer default values;
revoke all on pgws.sequencer from public;

comment on sequence pgws.outbox_state is 'Which table of the outbox writers use, and whether the sequencer sleeps.';
comment on table pgws.outbox_0 is 'What was published from SQL, until it has been announced.';
comment on table pgws.outbox_1 is 'As pgws.outbox_0, in turn.';
comment on table pgws.outbox_2 is 'As pgws.outbox_0, in turn.';
comment on table pgws.rounds is 'The rounds of the sequencer; the last one counts.';
comment on table pgws.sequencer is 'Which server is the sequencer.';

-- Inlined into the statements that call it, so without settings of its own; all names in it are qualified.
create or replace function pgws.envelope(channel text, payload text, event text, more text default '') returns text
language sql volatile as $$
  select '{"event":' operator(pg_catalog.||) pg_catalog.to_json(coalesce(event, 'Message'))::pg_catalog.text
    operator(pg_catalog.||) ',"channel":' operator(pg_catalog.||) pg_catalog.to_json(channel)::pg_catalog.text
    operator(pg_catalog.||) ',"payload":' operator(pg_catalog.||) coalesce(payload, 'null')
    operator(pg_catalog.||) ',"claims":{"message_delivered_at":'
    operator(pg_catalog.||) pg_catalog.round(extract(epoch from pg_catalog.clock_timestamp())::pg_catalog.numeric, 6)::pg_catalog.text
    operator(pg_catalog.||) '}' operator(pg_catalog.||) more operator(pg_catalog.||) '}'
$$;

-- Takes what a transaction publishes.
create or replace function pgws.send(channel text, body text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  state bigint;
  age interval;
  large_id bigint;
begin
  if channel is null then return; end if;
  if octet_length(body) > 67108864 then
    body := pgws.envelope(channel, json_build_object('bytes', octet_length(body), 'limit', pgws.max_bytes())::text, 'TooLarge');
  end if;
  state := pg_sequence_last_value('pgws.outbox_state');
  if state is null then
    -- No server runs that has a sequencer.
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
    return;
  end if;
  if state <= 2 then insert into pgws.outbox_0 (channel, body) values (channel, body);
  elsif state <= 4 then insert into pgws.outbox_1 (channel, body) values (channel, body);
  else insert into pgws.outbox_2 (channel, body) values (channel, body);
  end if;
  -- Behind the insert, which has given this transaction its number: a sequencer that falls asleep after this look waits
  -- until all transactions of its time have ended.
  if pg_sequence_last_value('pgws.outbox_state') % 2 = 0 and coalesce(current_setting('pgws.wake', true), '') not in ('off', 'false', 'no', '0') then
    perform pg_notify('pgws_sequencer', '');
  end if;
end $$;

-- What was published from SQL, is visible to this statement, and was not announced.
create function pgws.unannounced(snapshot pg_snapshot, next_snapshot pg_snapshot)
returns table (ordinal bigint, transaction xid8, channel text, body text, published_at timestamptz)
language sql stable as $$
  select o.ordinal, o.transaction, o.channel, o.body, o.published_at from (
    select * from pgws.outbox_0 a where a.transaction operator(pg_catalog.>=) pg_catalog.pg_snapshot_xmax(snapshot)
    union all
    select * from pgws.outbox_0 b where b.transaction operator(pg_catalog.=) any (array(select pg_catalog.pg_snapshot_xip(snapshot)))
    union all
    select * from pgws.outbox_1 c where c.transaction operator(pg_catalog.>=) pg_catalog.pg_snapshot_xmax(snapshot)
    union all
    select * from pgws.outbox_1 d where d.transaction operator(pg_catalog.=) any (array(select pg_catalog.pg_snapshot_xip(snapshot)))
    union all
    select * from pgws.outbox_2 e where e.transaction operator(pg_catalog.>=) pg_catalog.pg_snapshot_xmax(snapshot)
    union all
    select * from pgws.outbox_2 f where f.transaction operator(pg_catalog.=) any (array(select pg_catalog.pg_snapshot_xip(snapshot)))
  ) o
  where next_snapshot is null or pg_catalog.pg_visible_in_snapshot(o.transaction, next_snapshot)
$$;

-- Gives positions to what has become visible up to a snapshot, stores it, and notifies it: of the transactions whose last
-- message is behind one ordinal, and not behind another. What nobody keeps, and was published before a time, is passed over.
create function pgws.announce(snapshot pg_snapshot, upto pg_snapshot, after bigint, cut bigint, since timestamptz) returns integer
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
  select count(*), count(pg_notify(o.listen_channel, o.notification)) into found_count, notified
  from (
    select s.listen_channel, case
      when p.age is not null then pgws.notification(s.epoch, p.place, p.channel, p.body)
      when p.place is not null then json_build_object('pgws', 'large', 'position', p.place, 'channel', pgws.short(p.channel))::text
      else p.body || repeat(' ', p.copies::integer) end as notification
    from placed p, pgws.settings s order by p.last_ordinal, p.ordinal
  ) o;
  return found_count;
end $$;

-- A restore has brought back the numbers of transactions of another server: those that run now have smaller ones. What was
-- announced there is passed over, all else is announced as if it were published now; and old ids become gaps.
create function pgws.begin_anew(last pgws.rounds) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  own constant xid8 := pg_current_xact_id();
  here pg_snapshot;
  name text;
begin
  perform pgws.new_epoch();
  foreach name in array array['outbox_0', 'outbox_1', 'outbox_2'] loop
    execute format('delete from pgws.%I o where pg_visible_in_snapshot(o.transaction, $1) and o.published_at <= $2', name)
      using last.snapshot, last.ended_at;
    execute format('update pgws.%I set transaction = $1', name) using own;
  end loop;
  here := pg_current_snapshot();
  -- Ours is in no snapshot of our own.
  if own < pg_snapshot_xmax(here) then
    here := format('%s:%s:%s', least(own::text::numeric, pg_snapshot_xmin(here)::text::numeric), pg_snapshot_xmax(here), (
      select string_agg(x::text, ',' order by x) from (select pg_snapshot_xip(here) as x union select own) xids
    ))::pg_snapshot;
  end if;
  insert into pgws.rounds (snapshot) values (here);
end $$;

-- A round. Answers how many messages it has announced, and whether it has left some to the next one.
--
-- The order: by when a transaction published its last message, and then by when it published each. So a transaction's
-- messages stay together; and one that has seen another's commit comes behind it, because the other had published all of its
-- own by then.
create function pgws.round(since timestamptz, out announced integer, out more boolean)
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
  announced := pgws.announce(last.snapshot, upto, coalesce(last.announced_to, 0), cut, round.since);
  more := cut is not null;
  if more then
    insert into pgws.rounds (snapshot, next_snapshot, announced_to) values (last.snapshot, upto, cut);
  elsif announced > 0 or last.next_snapshot is not null or last.number is null then
    insert into pgws.rounds (snapshot) values (upto);
  end if;
end $$;

-- Makes a server the sequencer, or lets it stay so: where there is none, or the last one has not said so for too long.
-- Answers its term, and for how long there was none; null where another one is.
create function pgws.lead(node text, patience interval, out term bigint, out absence interval)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  before pgws.sequencer;
  this_database constant text := (select c.system_identifier from pg_control_system() c)
    || '/' || (select d.oid from pg_database d where d.datname = current_database());
  state bigint;
begin
  select * into before from pgws.sequencer s
    where s.node is not distinct from lead.node or s.until < clock_timestamp() for update;
  if not found then return; end if;
  term := before.term + case when before.node is not distinct from lead.node then 0 else 1 end;
  absence := greatest(clock_timestamp() - before.until, '0');
  update pgws.sequencer s set node = lead.node, term = lead.term, until = clock_timestamp() + patience, database = this_database;
  -- A copy of a database, or its restore, has messages of its own from here on.
  if before.database <> this_database then perform pgws.new_epoch(); end if;
  if pg_sequence_last_value('pgws.outbox_state') is null then perform setval('pgws.outbox_state', 1); end if;
end $$;

-- The sequencer ends: another one may take over at once.
create function pgws.resign(node text, term bigint) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  update pgws.sequencer s set until = clock_timestamp() where s.node = resign.node and s.term = resign.term;
  if found then perform pg_notify('pgws_sequencer', 'vacant'); end if;
end $$;

-- A round of the sequencer: it is awake from now on, or wants to sleep, or (null) is as it was. Where it wants to sleep, and
-- there was nothing to do, writers wake it from now on; it goes on
-- looking until the oldest transaction that runs is behind `asleep_since`, because older ones have not seen that it sleeps.
-- Answers null where another server is the sequencer now.
create function pgws.sequence(node text, term bigint, sleep boolean, since timestamptz default null,
  out announced integer, out more boolean, out oldest text, out asleep_since text)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  state constant bigint := pg_sequence_last_value('pgws.outbox_state');
  awake constant bigint := state - (state + 1) % 2;
begin
  if not exists (select from pgws.sequencer s where s.node = sequence.node and s.term = sequence.term) then return; end if;
  if sleep then
    perform setval('pgws.outbox_state', awake + 1);
    asleep_since := pg_current_xact_id();
  elsif not sleep and state <> awake then
    perform setval('pgws.outbox_state', awake);
  end if;
  select r.announced, r.more into announced, more from pgws.round(sequence.since) r;
  if sleep then
    if announced > 0 or more then
      perform setval('pgws.outbox_state', awake);
      asleep_since := null;
    else
      -- Nothing of it needs to outlive a crash.
      set local synchronous_commit = off;
    end if;
  end if;
  oldest := pg_snapshot_xmin(pg_current_snapshot());
end $$;

-- Announces what is there, before a server publishes what a client has sent, who may have seen it committed.
create function pgws.catch_up() returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  last pgws.rounds;
  one record;
  announced integer := 0;
begin
  if pg_sequence_last_value('pgws.outbox_state') is null then return 0; end if;
  for i in 1 .. 10 loop
    select * into last from pgws.rounds r order by r.number desc limit 1;
    exit when last.next_snapshot is null
      and not exists (select from pgws.unannounced(coalesce(last.snapshot, '1:1:'), null) u);
    select * into one from pgws.round(null);
    announced := announced + one.announced;
    exit when not one.more;
  end loop;
  return announced;
end $$;

-- Empties what of the outbox is not in use. It waits for nobody: a table that is locked by a transaction (one that has
-- published, or a dump) is left for the next time. Answers the size of all, and how many tables could not be emptied.
create function pgws.empty_outbox(node text, term bigint, out bytes bigint, out blocked integer)
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  -- A table is left when it is so large.
  full_bytes constant bigint := 8 * 1024 * 1024;
  state constant bigint := pg_sequence_last_value('pgws.outbox_state');
  used constant integer := (state - 1) / 2;
  last pgws.rounds;
  spare integer;
  name text;
  busy boolean;
begin
  if not exists (select from pgws.sequencer s where s.node = empty_outbox.node and s.term = empty_outbox.term) then return; end if;
  blocked := 0;
  lock table pgws.commit_lock in exclusive mode;
  select * into last from pgws.rounds r order by r.number desc limit 1;
  for i in 0 .. 2 loop
    continue when i = used;
    name := 'pgws.outbox_' || i;
    if pg_relation_size(name::regclass) > 0 then
      begin
        execute 'lock table ' || name || ' in access exclusive mode nowait';
        -- Nobody writes it, so all that is in it can be seen; but it may not have been announced.
        execute 'select exists (select from ' || name || ' o where not pg_visible_in_snapshot(o.transaction, $1))'
          into busy using last.snapshot;
        if busy or last.next_snapshot is not null then
          blocked := blocked + 1;
          continue;
        end if;
        execute 'truncate ' || name;
      exception when lock_not_available then
        blocked := blocked + 1;
        continue;
      end;
    end if;
    spare := i;
  end loop;
  if spare is not null and pg_table_size(('pgws.outbox_' || used)::regclass) >= full_bytes then
    perform setval('pgws.outbox_state', 1 + 2 * spare + (state + 1) % 2);
  end if;
  if pg_relation_size('pgws.rounds') >= full_bytes / 8 then
    begin
      lock table pgws.rounds in access exclusive mode nowait;
      truncate pgws.rounds;
      insert into pgws.rounds (snapshot, next_snapshot, announced_to, ended_at)
        values (last.snapshot, last.next_snapshot, last.announced_to, last.ended_at);
    exception when lock_not_available then
      blocked := blocked + 1;
    end;
  end if;
  bytes := pg_total_relation_size('pgws.outbox_0') + pg_total_relation_size('pgws.outbox_1')
    + pg_total_relation_size('pgws.outbox_2') + pg_total_relation_size('pgws.rounds');
end $$;

revoke execute on function pgws.unannounced(pg_snapshot, pg_snapshot) from public;
revoke execute on function pgws.announce(pg_snapshot, pg_snapshot, bigint, bigint, timestamptz) from public;
revoke execute on function pgws.begin_anew(pgws.rounds) from public;
revoke execute on function pgws.round(timestamptz) from public;
revoke execute on function pgws.lead(text, interval) from public;
revoke execute on function pgws.resign(text, bigint) from public;
revoke execute on function pgws.sequence(text, bigint, boolean, timestamptz) from public;
revoke execute on function pgws.catch_up() from public;
revoke execute on function pgws.empty_outbox(text, bigint) from public;
do $$
begin
  grant execute on function pgws.lead(text, interval), pgws.resign(text, bigint), pgws.sequence(text, bigint, boolean, timestamptz),
    pgws.catch_up(), pgws.empty_outbox(text, bigint) to pgws_server;
exception when undefined_object then
  -- Who may create roles does so behind the migrations.
end $$;

comment on function pgws.unannounced(pg_snapshot, pg_snapshot) is 'What was published from SQL and was not announced. For: the owner.';
comment on function pgws.announce(pg_snapshot, pg_snapshot, bigint, bigint, timestamptz) is 'Stores and notifies what was published. For: the owner.';
comment on function pgws.begin_anew(pgws.rounds) is 'Begins anew after a restore. For: the owner.';
comment on function pgws.round(timestamptz) is 'A round of the sequencer. For: the owner.';
comment on function pgws.lead(text, interval) is 'Makes a server the sequencer. For: pgws_server.';
comment on function pgws.resign(text, bigint) is 'Ends being the sequencer. For: pgws_server.';
comment on function pgws.sequence(text, bigint, boolean, timestamptz) is 'Announces what was published. For: pgws_server.';
comment on function pgws.catch_up() is 'Announces what was published, before a server publishes. For: pgws_server.';
comment on function pgws.empty_outbox(text, bigint) is 'Empties what of the outbox is not in use. For: pgws_server.';
comment on function pgws.envelope(text, text, text, text) is 'The envelope of a payload. For: the owner.';
