-- The schema that the migrations in sql/ make, to read: nothing runs it, and a test compares it.
-- After a new migration: npm run schema:snapshot

set check_function_bodies = off;

create schema pgws;

create sequence pgws.announced as bigint increment by 1 minvalue 0 maxvalue 9223372036854775807 start with 0 cache 1;

create sequence pgws.announcing as bigint increment by 1 minvalue 1 maxvalue 2 start with 1 cache 1;

create sequence pgws.ordinals as bigint increment by 1 minvalue 1 maxvalue 9223372036854775807 start with 1 cache 1;

create sequence pgws.outbox_state as bigint increment by 1 minvalue 1 maxvalue 6 start with 1 cache 1;

create sequence pgws.passing_state as bigint increment by 1 minvalue 0 maxvalue 1 start with 0 cache 1;

create sequence pgws.positions as bigint increment by 1 minvalue 1 maxvalue 9223372036854775807 start with 1 cache 1;

create table pgws.cleaning (
  only_row boolean default true not null,
  cleaned_to timestamp with time zone default '-infinity'::timestamp with time zone not null,
  swept_at timestamp with time zone default '-infinity'::timestamp with time zone not null,
  swept_version bigint default '-1'::integer not null,
  constraint cleaning_only_row_check CHECK (only_row),
  constraint cleaning_pkey PRIMARY KEY (only_row)
);

create table pgws.commit_lock (
);

create table pgws.flushes (
  transaction bigint not null
) with (autovacuum_vacuum_threshold=1000, autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_cost_delay=0);

create table pgws.forgotten (
  "position" bigint not null
);

create table pgws.large (
  id bigint generated always as identity not null,
  channel text not null,
  body text not null,
  created_at timestamp with time zone default clock_timestamp() not null,
  constraint large_pkey PRIMARY KEY (id)
);

create table pgws.messages (
  "position" bigint,
  channel text not null,
  body text not null,
  created_at timestamp with time zone default clock_timestamp() not null,
  expires_at timestamp with time zone not null,
  key text,
  transaction bigint,
  ordinal bigint
) with (autovacuum_vacuum_scale_factor=0.05, autovacuum_vacuum_insert_scale_factor=0.2, autovacuum_vacuum_cost_delay=0);

create table pgws.migrations (
  number integer not null,
  name text not null,
  applied_at timestamp with time zone default clock_timestamp() not null,
  oldest_server integer not null,
  constraint migrations_check CHECK ((oldest_server <= number)),
  constraint migrations_pkey PRIMARY KEY (number)
);

create table pgws.moves (
  transaction bigint not null,
  watched oid not null,
  relation oid not null,
  place tid not null,
  old_record jsonb not null,
  deletions jsonb default '[]'::jsonb not null
);

create table pgws.outbox_0 (
  ordinal bigint default nextval('pgws.ordinals'::regclass) not null,
  transaction xid8 default pg_current_xact_id() not null,
  channel text not null,
  body text not null,
  published_at timestamp with time zone default clock_timestamp() not null
) with (autovacuum_enabled=off);

create table pgws.outbox_1 (
  ordinal bigint default nextval('pgws.ordinals'::regclass) not null,
  transaction xid8 default pg_current_xact_id() not null,
  channel text not null,
  body text not null,
  published_at timestamp with time zone default clock_timestamp() not null
) with (autovacuum_enabled=off);

create table pgws.outbox_2 (
  ordinal bigint default nextval('pgws.ordinals'::regclass) not null,
  transaction xid8 default pg_current_xact_id() not null,
  channel text not null,
  body text not null,
  published_at timestamp with time zone default clock_timestamp() not null
) with (autovacuum_enabled=off);

create table pgws.passing_0 (
  "position" bigint not null,
  channel text not null,
  body text not null,
  key text,
  published_at timestamp with time zone default clock_timestamp() not null,
  notified boolean default false not null,
  constraint passing_0_pkey PRIMARY KEY ("position")
) with (autovacuum_enabled=off);

create table pgws.passing_1 (
  "position" bigint not null,
  channel text not null,
  body text not null,
  key text,
  published_at timestamp with time zone default clock_timestamp() not null,
  notified boolean default false not null,
  constraint passing_1_pkey PRIMARY KEY ("position")
) with (autovacuum_enabled=off);

create table pgws.retention (
  pattern text not null,
  expression text not null,
  max_age interval not null,
  max_messages bigint,
  constraint retention_max_age_check CHECK ((max_age > '00:00:00'::interval)),
  constraint retention_max_messages_check CHECK ((max_messages > 0)),
  constraint retention_pkey PRIMARY KEY (pattern)
);

create table pgws.revocations (
  id bigint generated always as identity not null,
  jti text,
  sub text,
  issued_before timestamp with time zone,
  expires_at timestamp with time zone not null,
  reason text,
  revoked_by text not null,
  revoked_at timestamp with time zone default now() not null,
  constraint revocations_check CHECK (((jti IS NULL) <> (sub IS NULL))),
  constraint revocations_check1 CHECK (((sub IS NULL) = (issued_before IS NULL))),
  constraint revocations_issued_before_check CHECK ((issued_before > '-infinity'::timestamp with time zone)),
  constraint revocations_jti_check CHECK ((octet_length(jti) <= 1024)),
  constraint revocations_jti_key UNIQUE (jti),
  constraint revocations_pkey PRIMARY KEY (id),
  constraint revocations_sub_check CHECK ((octet_length(sub) <= 1024)),
  constraint revocations_sub_key UNIQUE (sub)
);

create table pgws.rounds (
  number bigint generated always as identity not null,
  snapshot pg_snapshot not null,
  next_snapshot pg_snapshot,
  announced_to bigint,
  ended_at timestamp with time zone default clock_timestamp() not null,
  constraint rounds_pkey PRIMARY KEY (number)
) with (autovacuum_enabled=off);

create table pgws.secret (
  only_row boolean default true not null,
  secret text default (gen_random_uuid())::text not null,
  constraint secret_only_row_check CHECK (only_row),
  constraint secret_pkey PRIMARY KEY (only_row)
);

create table pgws.sequencer (
  only_row boolean default true not null,
  node text,
  term bigint default 0 not null,
  until timestamp with time zone default clock_timestamp() not null,
  database text,
  constraint sequencer_only_row_check CHECK (only_row),
  constraint sequencer_pkey PRIMARY KEY (only_row)
) with (fillfactor=10);

create table pgws.settings (
  only_row boolean default true not null,
  version integer not null,
  epoch text default lpad(to_hex((EXTRACT(epoch FROM clock_timestamp()))::bigint), 8, '0'::text) not null,
  listen_channel text not null,
  retention_version bigint default 1 not null,
  constraint settings_only_row_check CHECK (only_row),
  constraint settings_pkey PRIMARY KEY (only_row)
);

create table pgws.trimmed (
  channel text not null,
  "position" bigint not null,
  trimmed_at timestamp with time zone default now() not null,
  constraint trimmed_pkey PRIMARY KEY (channel)
);

CREATE INDEX large_created ON pgws.large USING btree (created_at);

CREATE INDEX messages_channel ON pgws.messages USING btree (channel, "position") WHERE ("position" IS NOT NULL);

CREATE INDEX messages_expires ON pgws.messages USING btree (expires_at) WHERE ("position" IS NOT NULL);

CREATE UNIQUE INDEX messages_key ON pgws.messages USING btree (key) WHERE (key IS NOT NULL);

CREATE UNIQUE INDEX messages_position ON pgws.messages USING btree ("position") WHERE ("position" IS NOT NULL);

CREATE INDEX messages_transaction ON pgws.messages USING btree (transaction) WHERE ("position" IS NULL);

CREATE INDEX outbox_0_transaction ON pgws.outbox_0 USING btree (transaction);

CREATE INDEX outbox_1_transaction ON pgws.outbox_1 USING btree (transaction);

CREATE INDEX outbox_2_transaction ON pgws.outbox_2 USING btree (transaction);

CREATE INDEX revocations_expires ON pgws.revocations USING btree (expires_at);

CREATE INDEX trimmed_position ON pgws.trimmed USING btree ("position");

CREATE OR REPLACE FUNCTION pgws."position"()
 RETURNS text
 LANGUAGE sql
 STABLE PARALLEL SAFE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
  select pgws.message_id(pgws.last_position())
$function$;

CREATE OR REPLACE FUNCTION pgws.advance_sequences()
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET enable_seqscan TO 'off'
AS $function$
declare
  -- Greater ones are no positions: JSON numbers would not be exact (RFC 8259, section 6).
  most constant bigint := 9007199254740992;
  behind record;
begin
  for behind in
    select s.name, s.last from (values
      ('pgws.positions', (select max(m.position) from pgws.messages m where m.position < most)),
      ('pgws.positions', (select max(t.position) from pgws.trimmed t where t.position < most)),
      ('pgws.positions', (select max(f.position) from pgws.forgotten f where f.position < most)),
      ('pgws.large_id_seq', (select max(l.id) from pgws.large l where l.id < most)),
      ('pgws.rounds_number_seq', (select max(r.number) from pgws.rounds r)),
      ('pgws.revocations_id_seq', (select max(v.id) from pgws.revocations v where v.id < most))
    ) s (name, last)
    where s.last > coalesce(pg_sequence_last_value(s.name::regclass), 0)
  loop
    -- Others may take numbers at the same time, so some are left out.
    perform setval(behind.name::regclass, greatest(behind.last, pg_sequence_last_value(behind.name::regclass)) + 1000);
  end loop;
end $function$;

CREATE OR REPLACE FUNCTION pgws.announce(snapshot pg_snapshot, upto pg_snapshot, after bigint, cut bigint, since timestamp with time zone)
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET enable_seqscan TO 'off'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgws.announcement(secret text, listen_channel text, previous bigint, first bigint, last bigint, without text DEFAULT NULL::text)
 RETURNS text
 LANGUAGE plpgsql
 IMMUTABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  words constant text := concat_ws(' ', previous, first, last, coalesce(without, '-'), listen_channel);
begin
  -- The secret comes last: a hash of secret and words could be continued with further words.
  return encode(sha256(convert_to(words || secret, 'UTF8')), 'hex') || ' ' || words;
end $function$;

CREATE OR REPLACE FUNCTION pgws.beat(beyond bigint)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  latest constant bigint := pgws.last_position();
begin
  if latest > beyond then
    -- All that this snapshot sees has been notified before.
    perform pg_notify('pgws_announcements', pgws.announcement(k.secret, s.listen_channel, latest, latest + 1, latest))
      from pgws.settings s, pgws.secret k;
  end if;
  return latest;
end $function$;

CREATE OR REPLACE FUNCTION pgws.begin_anew(last pgws.rounds)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgws.by_bus()
 RETURNS boolean
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
  select coalesce(pg_sequence_last_value('pgws.announcing'), 1) = 2
$function$;

CREATE OR REPLACE FUNCTION pgws.catch_up()
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET enable_seqscan TO 'off'
AS $function$
declare
  here constant pg_snapshot := pg_current_snapshot();
  last pgws.rounds;
  announced integer := 0;
begin
  if pg_sequence_last_value('pgws.outbox_state') is null then return 0; end if;
  -- A limit, because a client waits for it: a larger backlog is the sequencer's.
  for i in 1 .. 10 loop
    select * into last from pgws.rounds r order by r.number desc limit 1;
    exit when last.next_snapshot is null
      and not exists (select from pgws.unannounced(coalesce(last.snapshot, '1:1:'), here) u);
    announced := announced + (select r.announced from pgws.round(null) r);
  end loop;
  return announced;
end $function$;

CREATE OR REPLACE FUNCTION pgws.changed()
 RETURNS void
 LANGUAGE sql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
  update pgws.settings set retention_version = retention_version + 1;
  select pg_notify('pgws', 'settings');
$function$;

CREATE OR REPLACE FUNCTION pgws.clean(rows integer DEFAULT 5000)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
AS $function$
declare
  before pgws.cleaning;
  sweep boolean;
  current_version bigint;
  last_expired timestamptz;
  old_rows integer;
  large_rows integer;
  surplus integer := 0;
  busy record;
  removed integer;
begin
  select * into before from pgws.cleaning for update skip locked;
  if not found then return null; end if;
  select s.retention_version into current_version from pgws.settings s;
  sweep := before.swept_version <> current_version or before.swept_at not between now() - interval '10 minutes' and now();
  with gone as (
    delete from pgws.messages m where m.position in (
      select e.position from pgws.messages e
      where e.position is not null and e.expires_at <= statement_timestamp()
        and e.expires_at >= case when sweep then '-infinity' else before.cleaned_to - interval '5 seconds' end
      order by e.expires_at limit rows
    ) returning m.channel, m.position, m.expires_at
  ), noted as (
    insert into pgws.trimmed as t (channel, position) select g.channel, max(g.position) from gone g group by g.channel
    on conflict (channel) do update set position = greatest(t.position, excluded.position), trimmed_at = now()
  )
  select count(*), max(g.expires_at) into old_rows, last_expired from gone g;
  if old_rows > 0 or sweep then
    update pgws.cleaning c set cleaned_to = greatest(c.cleaned_to, last_expired),
      swept_at = case when sweep and old_rows < rows then now() else c.swept_at end,
      swept_version = case when sweep and old_rows < rows then current_version else c.swept_version end;
  end if;
  delete from pgws.large l where l.id in (
    select o.id from pgws.large o where o.created_at < statement_timestamp() - interval '1 minute' order by o.created_at limit rows
  );
  get diagnostics large_rows = row_count;
  delete from pgws.revocations v where v.id in (
    select r.id from pgws.revocations r where r.expires_at <= statement_timestamp() order by r.expires_at limit rows
  );
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
end $function$;

CREATE OR REPLACE FUNCTION pgws.defer_deletion(watched oid, relation oid, place tid, deletion jsonb)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_tidscan TO 'on'
AS $function$
#variable_conflict use_variable
declare
  moving tid := pgws.moving();
begin
  update pgws.moves m set deletions = m.deletions || jsonb_build_array(deletion)
    where m.ctid = moving and m.transaction = txid_current() and m.watched = watched and m.relation = relation
      and m.place = place
    returning m.ctid into moving;
  if not found then return false; end if;
  perform set_config('pgws.moving_' || pg_trigger_depth(), moving::text, true);
  return true;
end $function$;

CREATE OR REPLACE FUNCTION pgws.empty_outbox(node text, term bigint, OUT bytes bigint, OUT blocked integer)
 RETURNS record
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET enable_seqscan TO 'off'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgws.end_move()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  perform pgws.lose_move(new.ctid);
  return null;
end $function$;

CREATE OR REPLACE FUNCTION pgws.enqueue(channel text, body text)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  own xid8;
  state bigint;
  age interval;
  large_id bigint;
begin
  if channel is null then return true; end if;
  if octet_length(body) > 67108864 then
    body := pgws.envelope(channel, json_build_object('bytes', octet_length(body), 'limit', pgws.max_bytes())::text, 'TooLarge');
  end if;
  -- First of all the transaction gets its number: a sequencer that falls asleep after the look waits until all transactions
  -- of its time have ended.
  own := pg_current_xact_id();
  state := pg_sequence_last_value('pgws.outbox_state');
  if state <= 2 then insert into pgws.outbox_0 (transaction, channel, body) values (own, channel, body);
  elsif state <= 4 then insert into pgws.outbox_1 (transaction, channel, body) values (own, channel, body);
  elsif state is not null then insert into pgws.outbox_2 (transaction, channel, body) values (own, channel, body);
  else
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
  end if;
  if state % 2 = 0 and coalesce(current_setting('pgws.wake', true), '') not in ('off', 'false', 'no', '0') then
    perform pg_notify('pgws_sequencer', '');
  end if;
  return true;
end $function$;

CREATE OR REPLACE FUNCTION pgws.envelope(channel text, payload text, event text, more text DEFAULT ''::text)
 RETURNS text
 LANGUAGE sql
AS $function$
  select '{"event":' operator(pg_catalog.||) pg_catalog.to_json(coalesce(event, 'Message'))::pg_catalog.text
    operator(pg_catalog.||) ',"channel":' operator(pg_catalog.||) pg_catalog.to_json(channel)::pg_catalog.text
    operator(pg_catalog.||) ',"payload":' operator(pg_catalog.||) coalesce(payload, 'null')
    operator(pg_catalog.||) ',"claims":{"message_delivered_at":'
    operator(pg_catalog.||) pg_catalog.round(extract(epoch from pg_catalog.clock_timestamp())::pg_catalog.numeric, 6)::pg_catalog.text
    operator(pg_catalog.||) '}' operator(pg_catalog.||) more operator(pg_catalog.||) '}'
$function$;

CREATE OR REPLACE FUNCTION pgws.fill(template text, record jsonb)
 RETURNS text
 LANGUAGE plpgsql
 IMMUTABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgws.flush()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgws.flush_later()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  if current_setting('pgws.flushing', true) is distinct from txid_current()::text then
    perform set_config('pgws.flushing', txid_current()::text, true);
    insert into pgws.flushes (transaction) values (txid_current());
  end if;
  return null;
end $function$;

CREATE OR REPLACE FUNCTION pgws.follow_moves(target regclass)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  updating constant text := $condition$current_setting('pgws.updating_' || pg_trigger_depth()::text, true)$condition$;
begin
  if exists (
    select from pg_trigger t where t.tgrelid = target and t.tgparentid = 0 and t.tgfoid = 'pgws.move()'::regprocedure
  ) then
    return;
  end if;
  execute format('create trigger %I before update on %s for each row execute function pgws.updating()',
    'pgws_before_' || target::oid, target);
  execute format('create trigger %I after delete on %s for each row when (%s = old.tableoid::text || old.ctid::text)
    execute function pgws.move()', 'pgws_begin_' || target::oid, target, updating);
  execute format('create trigger %I after insert on %s for each row when (%s <> %L) execute function pgws.move()',
    'pgws_moved_' || target::oid, target, updating, '');
end $function$;

CREATE OR REPLACE FUNCTION pgws.handle(listen_channel text, groups integer[], kinds text[], functions text[], channels text[], bodies text[], database_channels text[], keys text[], claims text[], roles text[])
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_variable
declare
  began constant timestamptz := clock_timestamp();
  version constant bigint := (select s.retention_version from pgws.settings s);
  me constant text := current_user;
  items constant integer := cardinality(groups);
  first integer := 1;
  last integer;
  g integer;
  taking_role boolean;
  sent_before boolean[];
  answer jsonb;
  told jsonb;
  more jsonb;
  statement text;
  who jsonb;
  joined text[];
  connection text;
  body text;
  group_bodies text[];
  group_channels text[];
  out_channels text[] := '{}';
  out_bodies text[] := '{}';
  out_database text[] := '{}';
  out_keys text[] := '{}';
  done integer := 0;
  begin_at integer;
  failures jsonb := '[]';
  state text;
  reason text;
begin
  while first <= items loop
    -- The rest is for the next transaction: no sender waits for all others' functions.
    exit when done > 0 and clock_timestamp() > began + interval '1 second';
    g := groups[first];
    last := first;
    while last < items and groups[last + 1] = g loop last := last + 1; end loop;
    taking_role := false;
    begin
      group_bodies := bodies[first:last];
      group_channels := channels[first:last];
      if cardinality(array_remove(functions[first:last], null)) > 0 then
        -- A key that its sender chose: only then may the message have been here before, or be here twice.
        sent_before := null;
        if array_to_string(keys[first:last], ' ') like '%http:%' then
          sent_before := array(
            select k like 'http:%' and (exists (select from pgws.messages m where m.key = k) or exists (
              select from unnest(out_keys, out_channels) as o (key, channel)
              where o.key = k and pgws.max_age(o.channel) is not null
            ))
            from unnest(keys[first:last]) with ordinality as u (k, n) order by n
          );
        end if;
        if roles[g] is not null then
          taking_role := true;
          -- 'none' is what RESET ROLE is made of.
          if roles[g] in ('none', me, session_user) then
            raise insufficient_privilege using message = 'it is the role of the server itself';
          end if;
          perform set_config('role', roles[g], true);
          taking_role := false;
        end if;
        perform set_config('request.jwt.claims', claims[g], true);
        for i in first .. last loop
          continue when functions[i] is null;
          if sent_before[i - first + 1] then
            group_bodies[i - first + 1] := null;
            continue;
          end if;
          statement := 'select ' || functions[i] || case kinds[i]
            when 'message' then '($1)' when 'connect' then '($1, $2, $3)' else '($1, $2, $3, $4)' end;
          if kinds[i] = 'message' then
            told := case when database_channels[i] is null then bodies[i]::jsonb else jsonb_build_object(
              'event', 'WebsocketMessage', 'channel', channels[i], 'payload', bodies[i], 'claims', claims[g]::jsonb) end;
            -- Here, and below: the function finds what the session's own search path names; we go on with ours.
            reset search_path;
            execute statement into answer using told;
            set local search_path = pg_catalog, pg_temp;
            if answer is null or answer = 'null' then
              body := null;
            elsif answer = told then
              body := bodies[i];
            elsif jsonb_typeof(answer) <> 'object' or not answer ? 'payload' then
              raise invalid_parameter_value
                using message = functions[i] || ' must return a message, an object with "payload", or null';
            else
              told := told || answer;
              if database_channels[i] is null then
                -- What makes it unlike all others of this transaction stays: PostgreSQL folds equal notifications.
                -- "id" and "pgws" are the server's own words.
                more := told - '{event,channel,payload,claims,encoding,id,pgws}'::text[];
                body := format('{"event":%s,"channel":%s,"payload":%s,"claims":%s%s%s}',
                  told -> 'event', told -> 'channel', told -> 'payload',
                  coalesce(nullif(told -> 'claims', 'null'), '{}')
                    || jsonb_build_object('message_delivered_at', bodies[i]::jsonb #> '{claims,message_delivered_at}'),
                  case when more <> '{}' then ',' || substr(more::text, 2, length(more::text) - 2) end,
                  case when told ? 'encoding' then ',"encoding":"base64"' end);
              else
                body := told ->> 'payload';
              end if;
              if told ->> 'channel' is null or database_channels[i] is not null and told ->> 'channel' <> channels[i] then
                raise invalid_parameter_value using message = functions[i] || ' returned a message for no channel, or moved one of a raw channel';
              end if;
              if octet_length(body) > (case when database_channels[i] is null then 64 * 1024 * 1024 else 7999 end) then
                raise invalid_parameter_value using message = functions[i] || ' returned a message that is too large';
              end if;
              group_channels[i - first + 1] := told ->> 'channel';
            end if;
            group_bodies[i - first + 1] := body;
          else
            told := bodies[i]::jsonb;
            who := claims[g]::jsonb;
            joined := array(select jsonb_array_elements_text(told -> 'channels'));
            connection := told ->> 'connection';
            reason := told ->> 'reason';
            reset search_path;
            if kinds[i] = 'connect' then
              execute statement using who, joined, connection;
            else
              execute statement using who, joined, connection, reason;
            end if;
            set local search_path = pg_catalog, pg_temp;
          end if;
        end loop;
        reset role;
        reset all;
        set local search_path = pg_catalog, pg_temp;
        discard temporary;
        perform pg_advisory_unlock_all();
        -- A raw payload that a function made may be another's, too; then it is the next transaction's turn.
        if cardinality(array_remove(database_channels[first:last], null)) > 0 then
          if done > 0 and exists (
            select from unnest(group_bodies, database_channels[first:last]) as n (b, d)
            join unnest(out_bodies, out_database) as o (b, d) using (b, d) where d is not null
          ) then
            raise exception using errcode = 'PGWS1';
          end if;
        end if;
      end if;
      for i in first .. last loop
        continue when kinds[i] <> 'message' or group_bodies[i - first + 1] is null;
        out_channels := out_channels || group_channels[i - first + 1];
        out_bodies := out_bodies || group_bodies[i - first + 1];
        out_database := out_database || database_channels[i];
        out_keys := out_keys || keys[i];
      end loop;
    exception when others then
      get stacked diagnostics state = returned_sqlstate, reason = message_text;
      exit when state = 'PGWS1';
      -- Serialization and deadlocks, resources, the operator, the system: not what a sender can mend.
      if not taking_role and left(state, 2) in ('40', '53', '57', '58', 'XX') then raise; end if;
      -- Its rollback does not give these back.
      perform pg_advisory_unlock_all();
      failures := failures || jsonb_build_object('group', g, 'sqlstate', state, 'message', reason, 'role', taking_role);
    end;
    done := done + 1;
    first := last + 1;
  end loop;

  if exists (
    select from unnest(out_channels, out_bodies, out_database) as o (channel, body, database_channel)
    where database_channel is null and (pgws.by_bus() or octet_length(o.body) >= 8000 or pgws.max_age(o.channel) is not null)
  ) then
    -- Raw channels' payloads pass as they are. Those at the beginning go first: what encloses a publication must enclose
    -- all of it.
    begin_at := coalesce(array_position(array(select d is null from unnest(out_database) d), true), 1);
    perform pg_notify(o.channel, o.body) from unnest(out_database, out_bodies) with ordinality as o (channel, body, n)
      where n < begin_at order by n;
    if (
      select pgws.relay(version, listen_channel, array_agg(channel order by n), array_agg(o.body order by n),
        array_agg(pgws.max_age(channel) order by n), array_agg(case when pgws.by_bus() or pgws.max_age(channel) is not null then key end order by n))
      from unnest(out_channels, out_bodies, out_database, out_keys) with ordinality as o (channel, body, database_channel, key, n)
      where database_channel is null
    ) is null then
      raise exception 'what is retained has changed meanwhile' using errcode = '40001';
    end if;
    perform pg_notify(o.channel, o.body) from unnest(out_database, out_bodies) with ordinality as o (channel, body, n)
      where n > begin_at and o.channel is not null order by n;
  else
    for i in 1 .. cardinality(out_bodies) loop
      perform pg_notify(coalesce(out_database[i], listen_channel), out_bodies[i]);
    end loop;
  end if;
  return jsonb_build_object('done', done, 'failures', failures);
end $function$;

CREATE OR REPLACE FUNCTION pgws.history(channel text, newest integer)
 RETURNS TABLE(id text, message text, created_at timestamp with time zone)
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
  select pgws.message_id(m.position), m.body, m.created_at from pgws.messages m
  where m.channel = $1 and m.position is not null and m.expires_at > clock_timestamp()
  order by m.position desc limit newest
$function$;

CREATE OR REPLACE FUNCTION pgws.history(channel text, since text DEFAULT NULL::text, limit_ integer DEFAULT 100)
 RETURNS TABLE(id text, message text, created_at timestamp with time zone)
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
  select pgws.message_id(m.position), m.body, m.created_at from pgws.messages m
  where m.channel = $1 and m.position is not null and m.expires_at > clock_timestamp()
    and (since is null or pgws.message_id(m.position) > since)
  order by m.position limit limit_
$function$;

CREATE OR REPLACE FUNCTION pgws.is_foreign(type oid)
 RETURNS boolean
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
  with recursive parts (id) as (
    select type where type >= 16384
    union
    select next.id from parts p join pg_type t on t.oid = p.id, lateral (
      select t.typbasetype as id where t.typtype = 'd'
      union all select t.typelem where t.typcategory = 'A' and t.typtype = 'b'
      union all select a.atttypid from pg_attribute a
        where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
    ) next where next.id >= 16384
  )
  select exists (
    select from parts p join pg_type t on t.oid = p.id join pg_roles r on r.oid = t.typowner
    where t.typtype not in ('c', 'd') and not (t.typcategory = 'A' and t.typtype = 'b') and not r.rolsuper
      and t.typowner <> (select n.nspowner from pg_namespace n where n.nspname = 'pgws')
  )
$function$;

CREATE OR REPLACE FUNCTION pgws.last_place()
 RETURNS bigint
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
  select greatest(pgws.last_position(), pg_sequence_last_value('pgws.announced'),
    (select max(p.position) from pgws.passing_0 p), (select max(q.position) from pgws.passing_1 q))
$function$;

CREATE OR REPLACE FUNCTION pgws.last_position()
 RETURNS bigint
 LANGUAGE sql
 STABLE PARALLEL SAFE
AS $function$
  select greatest(
    (select coalesce(pg_catalog.max(m.position), 0) from pgws.messages m),
    (select coalesce(pg_catalog.max(t.position), 0) from pgws.trimmed t),
    (select pg_catalog.max(f.position) from pgws.forgotten f)
  )
$function$;

CREATE OR REPLACE FUNCTION pgws.lead(node text, patience interval, OUT term bigint, OUT absence interval)
 RETURNS record
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  select l.term, l.absence into term, absence from pgws.lead_as(node, patience, 1) l;
end $function$;

CREATE OR REPLACE FUNCTION pgws.lead_as(node text, patience interval, mode bigint, OUT term bigint, OUT absence interval)
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET lock_timeout TO '4s'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgws.lead_bus(node text, patience interval, OUT term bigint, OUT absence interval)
 RETURNS record
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  select l.term, l.absence into term, absence from pgws.lead_as(node, patience, 2) l;
end $function$;

CREATE OR REPLACE FUNCTION pgws.log(beyond bigint, rows integer)
 RETURNS TABLE(place bigint, channel text, body text, durable boolean)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
AS $function$
  select l.position, l.channel, l.body, l.durable from (
    (select m.position, m.channel, m.body, true as durable from pgws.messages m where m.position > beyond order by m.position limit rows)
    union all
    (select p.position, p.channel, p.body, false from pgws.passing_0 p where p.position > beyond order by p.position limit rows)
    union all
    (select q.position, q.channel, q.body, false from pgws.passing_1 q where q.position > beyond order by q.position limit rows)
  ) l order by l.position limit rows
$function$;

CREATE OR REPLACE FUNCTION pgws.lose_move(moving tid)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_tidscan TO 'on'
AS $function$
#variable_conflict use_variable
declare
  lost pgws.moves;
  deletion jsonb;
begin
  delete from pgws.moves m where m.ctid = moving and m.transaction = txid_current() returning m.* into lost;
  for deletion in select jsonb_array_elements(lost.deletions) loop
    perform pgws.send_change(deletion ->> 0, deletion -> 1, lost.watched, deletion ->> 2, 'DELETE', null, lost.old_record);
  end loop;
end $function$;

CREATE OR REPLACE FUNCTION pgws.mark(node text, term bigint, place bigint)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  current_mark constant bigint := coalesce(pg_sequence_last_value('pgws.announced'), 0);
begin
  if not pgws.by_bus() or not exists (select from pgws.sequencer s where s.node = mark.node and s.term = mark.term) then return null; end if;
  if place > current_mark then
    perform setval('pgws.announced', place);
    return place;
  end if;
  return current_mark;
end $function$;

CREATE OR REPLACE FUNCTION pgws.max_age(channel text)
 RETURNS interval
 LANGUAGE sql
 STABLE
AS $function$
  select pg_catalog.max(least(r.max_age, '100 years')) from pgws.retention r
  where $1 operator(pg_catalog.~) r.expression
$function$;

CREATE OR REPLACE FUNCTION pgws.max_bytes()
 RETURNS integer
 LANGUAGE sql
 IMMUTABLE
AS $function$select 67108864$function$;

CREATE OR REPLACE FUNCTION pgws.message_id(place bigint)
 RETURNS text
 LANGUAGE sql
 STABLE
AS $function$
  select s.epoch operator(pg_catalog.||) '-' operator(pg_catalog.||) pg_catalog.lpad(pg_catalog.to_hex($1), 16, '0') from pgws.settings s
$function$;

CREATE OR REPLACE FUNCTION pgws.move()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_tidscan TO 'on'
AS $function$
declare
  setting text := 'pgws.moving_' || pg_trigger_depth();
  parent oid;
  moving tid := pgws.moving();
begin
  if tg_op = 'INSERT' then
    if moving is null or pgws.moved_record(pgws.watched_table(tg_relid, tg_name), new.cmin) is null then return null; end if;
    delete from pgws.moves m where m.ctid = moving and m.transaction = txid_current();
    perform set_config(setting, '', true);
    return null;
  end if;
  parent := pgws.watched_table(tg_relid, tg_name);
  -- A row may leave a table that is a partition itself, and arrive where none of its triggers are: not to be told from a
  -- row that the same command deletes.
  if (select c.relispartition from pg_class c where c.oid = parent) then return null; end if;
  if moving is not null then perform pgws.lose_move(moving); end if;
  -- Even after SET CONSTRAINTS ALL IMMEDIATE.
  set constraints pgws.end_move deferred;
  insert into pgws.moves as m (transaction, watched, relation, place, old_record)
    values (txid_current(), parent, tg_relid, old.ctid, pgws.row_json(old, tg_relid)) returning m.ctid into moving;
  perform set_config(setting, moving::text, true);
  return null;
end $function$;

CREATE OR REPLACE FUNCTION pgws.moved_record(watched oid, command cid)
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_tidscan TO 'on'
AS $function$
#variable_conflict use_variable
declare
  moving tid := pgws.moving();
  old_record jsonb;
  earlier boolean;
begin
  select m.old_record, m.cmin::text::bigint <= command::text::bigint into old_record, earlier from pgws.moves m
    where m.ctid = moving and m.transaction = txid_current() and m.watched = watched;
  if earlier then
    perform set_config('pgws.moving_' || pg_trigger_depth(), '', true);
    perform pgws.lose_move(moving);
    return null;
  end if;
  return old_record;
end $function$;

CREATE OR REPLACE FUNCTION pgws.moving()
 RETURNS tid
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  return nullif(current_setting('pgws.moving_' || pg_trigger_depth(), true), '')::tid;
end $function$;

CREATE OR REPLACE FUNCTION pgws.new_epoch()
 RETURNS text
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  fresh text;
begin
  update pgws.settings set epoch = greatest(
    lpad(to_hex(extract(epoch from clock_timestamp())::bigint), 8, '0'),
    lpad(to_hex(('x' || epoch)::bit(32)::bigint + 1), 8, '0')
  ) returning epoch into fresh;
  perform pgws.changed();
  return fresh;
end $function$;

CREATE OR REPLACE FUNCTION pgws.notification(epoch text, place bigint, channel text, body text)
 RETURNS text
 LANGUAGE sql
 STABLE
AS $function$
  select case
    when pg_catalog.octet_length(body) operator(pg_catalog.<) 7964
      then '{"id":"' operator(pg_catalog.||) epoch operator(pg_catalog.||) '-'
        operator(pg_catalog.||) pg_catalog.lpad(pg_catalog.to_hex(place), 16, '0')
        operator(pg_catalog.||) '",' operator(pg_catalog.||) pg_catalog.substr(body, 2)
    else pg_catalog.json_build_object('pgws', 'message', 'position', place, 'channel', pgws.short(channel))::pg_catalog.text
  end
$function$;

CREATE OR REPLACE FUNCTION pgws.notify_revocation()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  if tg_op <> 'INSERT' then
    perform pg_notify('pgws_revocations', old.id::text);
  end if;
  if tg_op <> 'DELETE' then
    perform pg_notify('pgws_revocations', new.id::text);
  end if;
  return null;
end $function$;

CREATE OR REPLACE FUNCTION pgws.pattern_expression(pattern text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET standard_conforming_strings TO 'on'
AS $function$
  select '^(?:' || replace(replace(replace(
    regexp_replace(pattern, '([.\\+?^$(){}|\[\]])', '\\\1', 'g'),
    '**', E'\x01'), '*', '[^:]*'), E'\x01', '.*') || ')$'
$function$;

CREATE OR REPLACE FUNCTION pgws.place(snapshot pg_snapshot, upto pg_snapshot, after bigint, cut bigint, since timestamp with time zone)
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET enable_seqscan TO 'off'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgws.places(beyond bigint, keys text[])
 RETURNS TABLE(place bigint, channel text)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
  select m.position, m.channel from pgws.messages m where m.key = any (keys) and m.position > beyond
  union all
  select p.position, p.channel from pgws.passing_0 p where p.position > beyond and p.key = any (keys)
  union all
  select q.position, q.channel from pgws.passing_1 q where q.position > beyond and q.key = any (keys)
$function$;

CREATE OR REPLACE FUNCTION pgws.publish(channel text, payload jsonb, event text DEFAULT 'Message'::text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare sent boolean;
begin
  sent := pgws.enqueue(channel, pgws.envelope(channel, payload::text, event));
end $function$;

CREATE OR REPLACE FUNCTION pgws.publish_bytes(channel text, payload bytea)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare sent boolean;
begin
  sent := pgws.enqueue(channel, pgws.envelope(channel,
    to_json(replace(encode(payload, 'base64'), E'\n', ''))::text, 'Bytes', ',"encoding":"base64"'));
end $function$;

CREATE OR REPLACE FUNCTION pgws.publish_text(channel text, payload text, event text DEFAULT 'Message'::text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare sent boolean;
begin
  sent := pgws.enqueue(channel, pgws.envelope(channel, to_json(payload)::text, event));
end $function$;

CREATE OR REPLACE FUNCTION pgws.relay(retention_version bigint, listen_channel text, channels text[], bodies text[], ages interval[], keys text[])
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET lock_timeout TO '4s'
AS $function$
begin
  return pgws.relay_as(retention_version, listen_channel, channels, bodies, ages, keys, true);
end $function$;

CREATE OR REPLACE FUNCTION pgws.relay_as(retention_version bigint, listen_channel text, channels text[], bodies text[], ages interval[], keys text[], sql boolean)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET lock_timeout TO '4s'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgws.relay_by_notify(retention_version bigint, listen_channel text, channels text[], bodies text[], ages interval[], keys text[])
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET lock_timeout TO '4s'
AS $function$
declare
  stored_count bigint;
  notified bigint;
  epoch text;
  secret text;
begin
  select s.epoch, k.secret into epoch, secret from pgws.settings s, pgws.secret k where s.retention_version = relay_by_notify.retention_version;
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
      pgws.announcement(secret, relay_by_notify.listen_channel, (select coalesce(max(m.position), 0) from pgws.messages m), s.first, s.last, case
        -- Messages that were here before have used up positions.
        when s.last - s.first between s.size and 1500 then (
          select string_agg((g - s.first)::text, ',') from generate_series(s.first, s.last) g
          where not exists (select from durable d where d.position = g)
        ) end) as notification
    from (select min(d.position) as first, max(d.position) as last, count(*) as size from durable d) s where s.size > 0
    union all
    select i.n, d.position, relay_by_notify.listen_channel, case
      when d.position is not null then pgws.notification(epoch, d.position, i.channel, i.body)
      when l.id is not null then json_build_object('pgws', 'large', 'position', l.id, 'channel', pgws.short(i.channel))::text
      else i.body end
    from input i left join durable d on d.key = i.key left join numbered_large l on l.n = i.n
    where i.age is null or d.position is not null
    order by n
  ) ordered;
  return stored_count;
end $function$;

CREATE OR REPLACE FUNCTION pgws.relay_quietly(retention_version bigint, listen_channel text, channels text[], bodies text[], ages interval[], keys text[])
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET lock_timeout TO '4s'
AS $function$
begin
  return pgws.relay_as(retention_version, listen_channel, channels, bodies, ages, keys, false);
end $function$;

CREATE OR REPLACE FUNCTION pgws.resign(node text, term bigint)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  update pgws.sequencer s set until = clock_timestamp() where s.node = resign.node and s.term = resign.term;
  if found then
    perform pg_notify('pgws_sequencer', 'vacant');
    perform pg_notify('pgws_vacancy', '');
  end if;
end $function$;

CREATE OR REPLACE FUNCTION pgws.retain(pattern text, max_age interval, max_messages bigint DEFAULT NULL::bigint)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgws.revoke(jti text DEFAULT NULL::text, sub text DEFAULT NULL::text, issued_before timestamp with time zone DEFAULT NULL::timestamp with time zone, expires timestamp with time zone DEFAULT 'infinity'::timestamp with time zone, reason text DEFAULT NULL::text, revoked_by text DEFAULT NULL::text)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_column
declare
  id bigint;
begin
  if (revoke.jti is null) = (revoke.sub is null) then
    raise 'revoke either one token by its "jti", or the tokens of a subject by their "sub"' using errcode = '22023';
  elsif revoke.issued_before is not null and revoke.sub is null then
    raise '"issued_before" belongs to "sub": a token with a "jti" is revoked whenever it was issued' using errcode = '22023';
  elsif octet_length(coalesce(revoke.jti, revoke.sub)) > 1024 then
    raise '"jti" and "sub" have at most 1024 bytes' using errcode = '22023';
  elsif revoke.expires is null or revoke.expires <= now() then
    raise '"expires" must be in the future: it says when the last of the tokens expires' using errcode = '22023';
  end if;
  if revoke.jti is not null then
    insert into pgws.revocations as r (jti, expires_at, reason, revoked_by)
    values (revoke.jti, revoke.expires, revoke.reason, coalesce(revoke.revoked_by, session_user))
    on conflict (jti) do update set expires_at = greatest(r.expires_at, excluded.expires_at),
      reason = coalesce(excluded.reason, r.reason), revoked_by = excluded.revoked_by
    returning r.id into id;
  else
    insert into pgws.revocations as r (sub, issued_before, expires_at, reason, revoked_by)
    values (revoke.sub, coalesce(revoke.issued_before, clock_timestamp()), revoke.expires, revoke.reason,
      coalesce(revoke.revoked_by, session_user))
    on conflict (sub) do update set issued_before = greatest(r.issued_before, excluded.issued_before),
      expires_at = greatest(r.expires_at, excluded.expires_at), reason = coalesce(excluded.reason, r.reason),
      revoked_by = excluded.revoked_by
    returning r.id into id;
  end if;
  return id;
end $function$;

CREATE OR REPLACE FUNCTION pgws.round(since timestamp with time zone, OUT announced integer, OUT more boolean)
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET lock_timeout TO '4s'
 SET enable_seqscan TO 'off'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgws.row_expression(target oid)
 RETURNS text
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
  select case when bool_or(a.is_foreign) then 'select to_jsonb(r) from (select ' || string_agg(
    case
      when not a.is_foreign then format('($1).%1$I as %1$I', a.attname)
      -- A list of one dimension stays a list.
      when a.is_list then format(
        'case when array_ndims(($1).%1$I) = 1 then to_jsonb(array(
          select case when not u.e is null then format(''%%s'', u.e) end from unnest(($1).%1$I) with ordinality as u (e, n) order by u.n
        )) when ($1).%1$I is not null then to_jsonb(format(''%%s'', ($1).%1$I)) end as %1$I', a.attname)
      else format('case when not ($1).%1$I is null then format(''%%s'', ($1).%1$I) end as %1$I', a.attname)
    end, ', ' order by a.attnum) || ') r' end
  from (
    select a.attname, a.attnum, t.typcategory = 'A' and t.typtype = 'b' as is_list,
      a.atttypid >= 16384 and pgws.is_foreign(a.atttypid) as is_foreign
    from pg_attribute a join pg_type t on t.oid = a.atttypid
    where a.attrelid = target and a.attnum > 0 and not a.attisdropped offset 0
  ) a
$function$;

CREATE OR REPLACE FUNCTION pgws.row_json(r anyelement, relation oid)
 RETURNS jsonb
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET "DateStyle" TO 'ISO, MDY'
 SET "IntervalStyle" TO 'postgres'
 SET bytea_output TO 'hex'
 SET extra_float_digits TO '1'
AS $function$
declare
  expression text;
  made jsonb;
begin
  if exists (
    select from pg_attribute a join pg_type t on t.oid = a.atttypid
    where a.attrelid = relation and a.attnum > 0 and a.atttypid >= 16384
      and (t.typtype <> 'e' or pg_get_userbyid(t.typowner) <> current_user)
  ) then
    expression := pgws.row_expression(relation);
  end if;
  if expression is null then return to_jsonb(r); end if;
  execute expression into made using r;
  return made;
end $function$;

CREATE OR REPLACE FUNCTION pgws.send(channel text, body text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  perform pgws.enqueue(channel, body);
end $function$;

CREATE OR REPLACE FUNCTION pgws.send_change(template text, columns jsonb, watched oid, partition text, operation text, record jsonb, old_record jsonb)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_variable
declare
  one text := pgws.fill(template, coalesce(record, old_record));
  other text := pgws.fill(template, coalesce(old_record, record));
  body text;
begin
  if jsonb_typeof(columns) = 'array' then
    record := (select jsonb_object_agg(key, value) from jsonb_each(record) where columns ? key);
    old_record := (select jsonb_object_agg(key, value) from jsonb_each(old_record) where columns ? key);
    if operation = 'UPDATE' and record is not distinct from old_record and one = other then return; end if;
  end if;
  select json_build_object('operation', operation, 'schema', n.nspname, 'table', c.relname, 'partition', partition,
    'record', record, 'old_record', old_record)::text into strict body
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = watched;
  perform pgws.send(one, pgws.envelope(one, body, 'Change'));
  if other is distinct from one then
    perform pgws.send(other, pgws.envelope(other, body, 'Change'));
  end if;
end $function$;

CREATE OR REPLACE FUNCTION pgws.sequence(node text, term bigint, sleep boolean, since timestamp with time zone DEFAULT NULL::timestamp with time zone, OUT announced integer, OUT more boolean, OUT oldest text, OUT asleep_since text)
 RETURNS record
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgws.short(channel text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
AS $function$
  select case when pg_catalog.octet_length(channel) operator(pg_catalog.<=) 1000 then channel end
$function$;

CREATE OR REPLACE FUNCTION pgws.store(channels text[], bodies text[], ages interval[], keys text[], times timestamp with time zone[], notified boolean DEFAULT false)
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgws.tell()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET "DateStyle" TO 'ISO, MDY'
 SET "IntervalStyle" TO 'postgres'
 SET bytea_output TO 'hex'
 SET extra_float_digits TO '1'
AS $function$
declare
  one text := tg_argv[0];
  other text := one;
  columns jsonb := tg_argv[1];
  fresh jsonb;
  old_record jsonb;
  body text;
  expression text;
  sent boolean;
begin
  if tg_level = 'ROW' then
    -- For each row, so quickly: nearly all tables have types of PostgreSQL's own, and enums of our owner, alone.
    if exists (
      select from pg_attribute a join pg_type t on t.oid = a.atttypid
      where a.attrelid = tg_relid and a.attnum > 0 and a.atttypid >= 16384
        and (t.typtype <> 'e' or pg_get_userbyid(t.typowner) <> current_user)
    ) then
      expression := pgws.row_expression(tg_relid);
    end if;
    if expression is null then
      if tg_op in ('INSERT', 'UPDATE') then fresh := to_jsonb(new); end if;
      if tg_op in ('UPDATE', 'DELETE') then old_record := to_jsonb(old); end if;
    else
      if tg_op in ('INSERT', 'UPDATE') then execute expression into fresh using new; end if;
      if tg_op in ('UPDATE', 'DELETE') then execute expression into old_record using old; end if;
    end if;
  end if;
  if strpos(one, '{') > 0 then
    one := pgws.fill(tg_argv[0], coalesce(fresh, old_record));
    other := pgws.fill(tg_argv[0], coalesce(old_record, fresh));
  end if;
  if columns <> 'null' then
    fresh := (select jsonb_object_agg(key, value) from jsonb_each(fresh) where columns ? key);
    old_record := (select jsonb_object_agg(key, value) from jsonb_each(old_record) where columns ? key);
    if tg_op = 'UPDATE' and fresh is not distinct from old_record and one = other then return null; end if;
  end if;
  body := json_build_object('operation', tg_op, 'schema', tg_table_schema, 'table', tg_table_name,
    'record', fresh, 'old_record', old_record)::text;
  sent := pgws.enqueue(one, pgws.envelope(one, body, 'Change'));
  if other is distinct from one then
    sent := pgws.enqueue(other, pgws.envelope(other, body, 'Change'));
  end if;
  return null;
end $function$;

CREATE OR REPLACE FUNCTION pgws.tell_partitioned()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  operation text := tg_op;
  fresh jsonb;
  old_record jsonb;
  parent oid := pgws.watched_table(tg_relid, tg_name);
begin
  if tg_level = 'ROW' and tg_op <> 'UPDATE'
    and coalesce(current_setting('pgws.moving_' || pg_trigger_depth(), true), '') <> ''
  then
    if tg_op = 'DELETE' then
      if pgws.defer_deletion(parent, tg_relid, old.ctid, jsonb_build_array(tg_argv[0], tg_argv[1]::jsonb, tg_table_name)) then
        return null;
      end if;
    else
      old_record := pgws.moved_record(parent, new.cmin);
      if old_record is not null then
        operation := 'UPDATE';
        -- Only who is told of updates.
        if not exists (
          select from pg_trigger t where t.tgrelid = tg_relid and t.tgname = 'pgws_update_' || substr(tg_name, length('pgws_insert_') + 1)
        ) then
          return null;
        end if;
      end if;
    end if;
  end if;
  if operation = 'INSERT' and tg_nargs > 2 then return null; end if;

  if tg_op in ('INSERT', 'UPDATE') then fresh := pgws.row_json(new, tg_relid); end if;
  if tg_op in ('UPDATE', 'DELETE') then old_record := pgws.row_json(old, tg_relid); end if;
  perform pgws.send_change(tg_argv[0], tg_argv[1]::jsonb, parent, case when tg_level = 'ROW' then tg_table_name end,
    operation, fresh, old_record);
  return null;
end $function$;

CREATE OR REPLACE FUNCTION pgws.turn_passing(node text, term bigint)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgws.unannounced(snapshot pg_snapshot, next_snapshot pg_snapshot)
 RETURNS TABLE(ordinal bigint, transaction xid8, channel text, body text, published_at timestamp with time zone)
 LANGUAGE sql
 STABLE
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION pgws.unretain(pattern text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_variable
begin
  delete from pgws.retention r where r.pattern = pattern;
  update pgws.messages m set expires_at = '-infinity'
    where m.channel ~ pgws.pattern_expression(pattern) and pgws.max_age(m.channel) is null;
  perform pgws.changed();
end $function$;

CREATE OR REPLACE FUNCTION pgws.unrevoke(id bigint)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_column
begin
  delete from pgws.revocations r where r.id = unrevoke.id;
  return found;
end $function$;

CREATE OR REPLACE FUNCTION pgws.unwatch(target regclass, channel text DEFAULT NULL::text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET standard_conforming_strings TO 'on'
AS $function$
#variable_conflict use_variable
declare
  name text;
begin
  for name in
    select t.tgname from pg_trigger t
    where t.tgrelid = target and not t.tgisinternal and t.tgparentid = 0 and t.tgname like 'pgws\_%'
      and (channel is null or t.tgname like '%\_' || md5(channel))
  loop
    execute format('drop trigger %I on %s', name, target);
  end loop;
  -- The last watch takes with it what all of them share.
  if not exists (
    select from pg_trigger t
    where t.tgrelid = target and t.tgparentid = 0 and t.tgfoid = 'pgws.tell_partitioned()'::regprocedure
  ) then
    for name in
      select t.tgname from pg_trigger t
      where t.tgrelid = target and t.tgparentid = 0
        and t.tgfoid in ('pgws.updating()'::regprocedure, 'pgws.move()'::regprocedure)
    loop
      execute format('drop trigger %I on %s', name, target);
    end loop;
  end if;
end $function$;

CREATE OR REPLACE FUNCTION pgws.updating()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  perform set_config('pgws.updating_' || (pg_trigger_depth() - 1), tg_relid::text || old.ctid::text, true);
  return new;
end $function$;

CREATE OR REPLACE FUNCTION pgws.watch(target regclass, channel text, events text[] DEFAULT '{INSERT,UPDATE,DELETE}'::text[], columns text[] DEFAULT NULL::text[], condition text DEFAULT NULL::text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET standard_conforming_strings TO 'on'
AS $function$
#variable_conflict use_variable
declare
  event text;
  row_name text;
  missing text;
  kind "char" := (select c.relkind from pg_class c where c.oid = target);
  is_partition boolean := (select c.relispartition from pg_class c where c.oid = target);
  children text;
  arguments text;
begin
  if kind not in ('r', 'p') then
    raise exception 'pgws.watch: % is %, expected a table', target, case kind when 'v' then 'a view'
      when 'm' then 'a materialized view' when 'f' then 'a foreign table' else 'something else' end
      using errcode = 'wrong_object_type', hint = case kind when 'v' then 'Watch the tables that it reads.'
        when 'm' then 'Watch the tables that it reads.'
        when 'f' then 'Its rows change on another server: watch the table there.'
        else 'Tables and partitioned tables can be watched.' end;
  end if;
  select string_agg(i.inhrelid::regclass::text, ', ' order by i.inhrelid) into children
    from pg_inherits i where i.inhparent = target and kind = 'r';
  if children is not null then
    raise exception 'pgws.watch: % has tables that inherit from it: %', target, children
      using errcode = 'wrong_object_type',
        hint = 'They do not inherit its triggers. Make it a partitioned table, or watch those of them that hold the rows.';
  end if;
  select string_agg(distinct quote_ident(n.name), ', ') into missing
  from (
    select unnest(columns) as name
    union all select (regexp_matches(channel, '\{([^}]*)\}', 'g'))[1]
  ) n
  where not exists (
    select from pg_attribute a where a.attrelid = target and a.attname = n.name and a.attnum > 0 and not a.attisdropped
  );
  if missing is not null then
    raise exception 'pgws.watch: the table % has no column %', target, missing
      using errcode = 'undefined_column', hint = format('Its columns are %s.', (
        select string_agg(quote_ident(a.attname), ', ' order by a.attnum) from pg_attribute a
        where a.attrelid = target and a.attnum > 0 and not a.attisdropped));
  end if;
  if exists (
    select from pg_trigger t where t.tgrelid = target and t.tgparentid <> 0 and t.tgname like 'pgws\_%\_' || md5(channel)
  ) then
    raise exception 'pgws.watch: % is a partition, and its parent is watched with the channel %', target, channel
      using errcode = 'duplicate_object', hint = 'Changes of its rows are already sent there.';
  end if;
  events := (select array_agg(distinct upper(e) order by upper(e)) from unnest(events) e);
  if events is null then
    raise exception 'pgws.watch: expected at least one event' using errcode = 'invalid_parameter_value',
      hint = 'Known are INSERT, UPDATE, DELETE and TRUNCATE.';
  end if;
  foreach event in array events loop
    if event not in ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE') then
      raise exception 'pgws.watch: unknown event %', event using hint = 'Known are INSERT, UPDATE, DELETE and TRUNCATE.';
    end if;
  end loop;
  perform pgws.unwatch(target, channel);
  arguments := format('%L, %L', channel, coalesce(to_json(columns), 'null'));
  foreach event in array events loop
    row_name := case event when 'DELETE' then 'OLD' else 'NEW' end;
    execute format('create trigger %I after %s on %s for each %s %s execute function pgws.%s(%s)',
      'pgws_' || lower(event) || '_' || md5(channel), event, target,
      case event when 'TRUNCATE' then 'statement' else 'row' end,
      case when condition is null or event = 'TRUNCATE' then ''
        else 'when (' || regexp_replace(condition, '\mrecord\.', row_name || '.', 'gi') || ')' end,
      case kind when 'p' then 'tell_partitioned' else 'tell' end, arguments);
  end loop;
  -- Rows leave and arrive at a table that is a partition itself.
  if kind = 'p' and not is_partition and events && '{INSERT,UPDATE,DELETE}' then
    perform pgws.follow_moves(target);
    -- (An INSERT has no old row: a condition that needs it is for rows that stay where they are.)
    if 'UPDATE' = any (events) and not 'INSERT' = any (events) and coalesce(condition !~* '\mold\.', true) then
      execute format('create trigger %I after insert on %s for each row %s execute function pgws.tell_partitioned(%s, %L)',
        'pgws_insert_' || md5(channel), target,
        'when (' || regexp_replace(condition, '\mrecord\.', 'NEW.', 'gi') || ')', arguments, 'moves');
    end if;
  end if;
end $function$;

CREATE OR REPLACE FUNCTION pgws.watched_table(relation oid, trigger_name name)
 RETURNS oid
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_variable
declare
  watched oid;
begin
  with recursive triggers as (
    select t.tgrelid, t.tgparentid from pg_trigger t where t.tgrelid = relation and t.tgname = trigger_name
    union all
    select p.tgrelid, p.tgparentid from triggers t join pg_trigger p on p.oid = t.tgparentid
  )
  select t.tgrelid into strict watched from triggers t where t.tgparentid = 0;
  return watched;
end $function$;

CREATE CONSTRAINT TRIGGER flush AFTER INSERT ON pgws.flushes DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pgws.flush();

CREATE CONSTRAINT TRIGGER flush_later AFTER INSERT ON pgws.messages DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN ((new."position" IS NULL)) EXECUTE FUNCTION pgws.flush_later();

CREATE CONSTRAINT TRIGGER end_move AFTER INSERT OR UPDATE ON pgws.moves DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pgws.end_move();

CREATE TRIGGER notify AFTER INSERT OR DELETE OR UPDATE ON pgws.revocations FOR EACH ROW EXECUTE FUNCTION pgws.notify_revocation();

alter table pgws.flushes enable always trigger flush;

alter table pgws.messages enable always trigger flush_later;

alter table pgws.revocations enable always trigger notify;

comment on column pgws.cleaning.cleaned_to is 'Messages that expired before this time have been deleted, with few exceptions.';

comment on column pgws.cleaning.swept_at is 'When all expired messages were last searched for.';

comment on column pgws.cleaning.swept_version is 'The version of the retention rules then.';

comment on column pgws.revocations.expires_at is 'When the last of the tokens expires. Then the row is deleted.';

comment on column pgws.revocations.issued_before is 'Tokens of "sub" are revoked if their claim "iat" is before this time, or missing.';

comment on column pgws.revocations.jti is 'The claim "jti" of a revoked token.';

comment on column pgws.revocations.sub is 'The claim "sub" of revoked tokens.';

comment on function pgws."position"() is 'Returns the id of the last message that is visible in this snapshot. For: pgws_publisher, pgws_server.';

comment on function pgws.advance_sequences() is 'Moves sequences that are behind their tables. For: the owner.';

comment on function pgws.announce(snapshot pg_snapshot, upto pg_snapshot, after bigint, cut bigint, since timestamp with time zone) is 'Stores and notifies what was published. For: the owner.';

comment on function pgws.announcement(secret text, listen_channel text, previous bigint, first bigint, last bigint, without text) is 'Builds the announcement of the positions that are notified next. For: the owner.';

comment on function pgws.beat(beyond bigint) is 'Notifies servers of the last position, if it is beyond another one. Returns it. For: pgws_server.';

comment on function pgws.begin_anew(last pgws.rounds) is 'Begins anew after a restore. For: the owner.';

comment on function pgws.by_bus() is 'Returns whether messages are announced over a bus. For: pgws_server.';

comment on function pgws.catch_up() is 'Announces what was published, before a server publishes. For: pgws_server.';

comment on function pgws.changed() is 'Notifies servers that the retention rules have changed. For: the owner.';

comment on function pgws.clean(rows integer) is 'Deletes a limited number of messages that exceed their retention. For: pgws_server.';

comment on function pgws.defer_deletion(watched oid, relation oid, place tid, deletion jsonb) is 'Holds back a DELETE until the row arrives in another partition. For: the owner.';

comment on function pgws.empty_outbox(node text, term bigint, OUT bytes bigint, OUT blocked integer) is 'Empties what of the outbox is not in use. For: pgws_server.';

comment on function pgws.end_move() is 'Trigger function of pgws.moves. For: the owner.';

comment on function pgws.enqueue(channel text, body text) is 'Publishes an envelope. For: the owner.';

comment on function pgws.envelope(channel text, payload text, event text, more text) is 'Builds the envelope of a payload. For: the owner.';

comment on function pgws.fill(template text, record jsonb) is 'Replaces {column} in the channel of pgws.watch() by the values of a row. For: the owner.';

comment on function pgws.flush() is 'Trigger function of pgws.flushes: assigns positions and notifies servers, while none has a sequencer. For: the owner.';

comment on function pgws.flush_later() is 'Trigger function of pgws.messages: assigns positions at commit, while no server has a sequencer. For: the owner.';

comment on function pgws.follow_moves(target regclass) is 'Creates the triggers that detect moves between partitions. For: pgws_publisher.';

comment on function pgws.handle(listen_channel text, groups integer[], kinds text[], functions text[], channels text[], bodies text[], database_channels text[], keys text[], claims text[], roles text[]) is 'Passes messages, connections and disconnections to SQL functions, and publishes the results. For: pgws_server.';

comment on function pgws.history(channel text, newest integer) is 'Returns the newest messages of a channel, the newest first. For: pgws_server.';

comment on function pgws.history(channel text, since text, limit_ integer) is 'Returns the stored messages of a channel after an id, the oldest first. For: pgws_server.';

comment on function pgws.is_foreign(type oid) is 'Returns whether to_jsonb() of a type may call a function of an untrusted role. For: the owner.';

comment on function pgws.last_place() is 'Returns the last position, also of messages that are kept for some seconds. For: pgws_server.';

comment on function pgws.last_position() is 'Returns the last position that is visible in this snapshot. For: pgws_server.';

comment on function pgws.lead(node text, patience interval, OUT term bigint, OUT absence interval) is 'Makes a server the sequencer. For: pgws_server.';

comment on function pgws.lead_as(node text, patience interval, mode bigint, OUT term bigint, OUT absence interval) is 'Makes a server the sequencer. For: the owner.';

comment on function pgws.lead_bus(node text, patience interval, OUT term bigint, OUT absence interval) is 'Makes a server the sequencer, which announces over a bus. For: pgws_server.';

comment on function pgws.log(beyond bigint, rows integer) is 'Returns the stored messages of all channels after a position, also those that are kept for some seconds. For: pgws_server.';

comment on function pgws.lose_move(moving tid) is 'Ends the move of a row that has not arrived, and publishes its deletion. For: the owner.';

comment on function pgws.mark(node text, term bigint, place bigint) is 'Notes up to where the sequencer has announced over the bus, and returns it. For: pgws_server.';

comment on function pgws.max_age(channel text) is 'Returns the maximum age of a channel''s messages; null if the channel is not durable. For: pgws_server.';

comment on function pgws.max_bytes() is 'Returns the maximum size of a message, in bytes. For: the owner.';

comment on function pgws.message_id(place bigint) is 'Returns the id of a position. For: pgws_server.';

comment on function pgws.move() is 'Trigger function for rows that move between partitions. For: pgws_publisher.';

comment on function pgws.moved_record(watched oid, command cid) is 'Returns the values of a row before it was moved. For: the owner.';

comment on function pgws.moving() is 'Returns the current location of the row that is being moved. For: the owner.';

comment on function pgws.new_epoch() is 'Starts a new epoch. Call it after a restore: ids of earlier epochs are then reported as gaps. For: the owner.';

comment on function pgws.notification(epoch text, place bigint, channel text, body text) is 'Builds the notification for a stored message: the message itself, or a reference to it. For: the owner.';

comment on function pgws.notify_revocation() is 'The trigger function of pgws.revocations. For: the owner.';

comment on function pgws.pattern_expression(pattern text) is 'Returns the regular expression for a pattern of channels. For: the owner.';

comment on function pgws.place(snapshot pg_snapshot, upto pg_snapshot, after bigint, cut bigint, since timestamp with time zone) is 'Stores what was published, for a bus. For: the owner.';

comment on function pgws.places(beyond bigint, keys text[]) is 'Returns the positions of messages that were published with keys. For: pgws_server.';

comment on function pgws.publish(channel text, payload jsonb, event text) is 'Publishes a JSON payload to a channel, as part of your transaction. For: pgws_publisher.';

comment on function pgws.publish_bytes(channel text, payload bytea) is 'Publishes bytes to a channel, as part of your transaction. For: pgws_publisher.';

comment on function pgws.publish_text(channel text, payload text, event text) is 'Publishes a text to a channel, as part of your transaction. For: pgws_publisher.';

comment on function pgws.relay(retention_version bigint, listen_channel text, channels text[], bodies text[], ages interval[], keys text[]) is 'Publishes the messages that a server sends. For: pgws_server.';

comment on function pgws.relay_as(retention_version bigint, listen_channel text, channels text[], bodies text[], ages interval[], keys text[], sql boolean) is 'Publishes the messages that a server sends. For: the owner.';

comment on function pgws.relay_by_notify(retention_version bigint, listen_channel text, channels text[], bodies text[], ages interval[], keys text[]) is 'Stores and notifies the messages that a server sends. For: the owner.';

comment on function pgws.relay_quietly(retention_version bigint, listen_channel text, channels text[], bodies text[], ages interval[], keys text[]) is 'As pgws.relay. With a bus, SQL sessions that listen are not notified. For: pgws_server.';

comment on function pgws.resign(node text, term bigint) is 'Ends being the sequencer. For: pgws_server.';

comment on function pgws.retain(pattern text, max_age interval, max_messages bigint) is 'Stores messages of the channels that match a pattern, up to an age and optionally a number. For: the owner.';

comment on function pgws.revoke(jti text, sub text, issued_before timestamp with time zone, expires timestamp with time zone, reason text, revoked_by text) is 'Revokes the token with a "jti", or the tokens of a "sub" that were issued before a time (default: now). "expires" says when the last of them expires. Returns the id of the revocation. For: pgws_server.';

comment on function pgws.round(since timestamp with time zone, OUT announced integer, OUT more boolean) is 'A round of the sequencer. For: the owner.';

comment on function pgws.row_expression(target oid) is 'Returns the statement that converts a row of a table to JSON. For: the owner.';

comment on function pgws.row_json(r anyelement, relation oid) is 'Converts a row to JSON. For: the owner.';

comment on function pgws.send(channel text, body text) is 'Publishes an envelope. For: the owner.';

comment on function pgws.send_change(template text, columns jsonb, watched oid, partition text, operation text, record jsonb, old_record jsonb) is 'Publishes a change of a partitioned table. For: the owner.';

comment on function pgws.sequence(node text, term bigint, sleep boolean, since timestamp with time zone, OUT announced integer, OUT more boolean, OUT oldest text, OUT asleep_since text) is 'Announces what was published. For: pgws_server.';

comment on function pgws.short(channel text) is 'Returns the name of a channel; null if it is too long for a reference. For: the owner.';

comment on function pgws.store(channels text[], bodies text[], ages interval[], keys text[], times timestamp with time zone[], notified boolean) is 'Gives positions to messages and stores them, for a bus. For: the owner.';

comment on function pgws.tell() is 'Trigger function of pgws.watch(). For: pgws_publisher.';

comment on function pgws.tell_partitioned() is 'Trigger function of pgws.watch() on partitioned tables. For: pgws_publisher.';

comment on function pgws.turn_passing(node text, term bigint) is 'Empties the older table of messages that are kept for some seconds. For: pgws_server.';

comment on function pgws.unannounced(snapshot pg_snapshot, next_snapshot pg_snapshot) is 'What was published from SQL and was not announced. For: the owner.';

comment on function pgws.unretain(pattern text) is 'Ends pgws.retain() for a pattern, and deletes its messages. For: the owner.';

comment on function pgws.unrevoke(id bigint) is 'Withdraws a revocation. Returns whether there was one. For: pgws_server.';

comment on function pgws.unwatch(target regclass, channel text) is 'Ends pgws.watch() for one channel, or for all channels of the table. For: pgws_publisher.';

comment on function pgws.updating() is 'Trigger function that records which row is being updated. For: pgws_publisher.';

comment on function pgws.watch(target regclass, channel text, events text[], columns text[], condition text) is 'Publishes the changes of a table to a channel. {column} in the name of the channel is replaced by the row''s value. For: pgws_publisher.';

comment on function pgws.watched_table(relation oid, trigger_name name) is 'Returns the table that the watch of a trigger was created for. For: the owner.';

comment on schema pgws is 'Durable channels of fastify-pg-websockets.';

comment on sequence pgws.announced is 'The position up to which messages were announced over the bus.';

comment on sequence pgws.announcing is 'Whether messages are announced by NOTIFY (1) or over a bus (2).';

comment on sequence pgws.outbox_state is 'Which table of the outbox writers use, and whether the sequencer sleeps.';

comment on sequence pgws.passing_state is 'Which table of passing messages is written.';

comment on table pgws.cleaning is 'Locked by the session that deletes expired messages.';

comment on table pgws.commit_lock is 'Locked from the assignment of positions to the end of the commit.';

comment on table pgws.flushes is 'Transactions whose messages get their positions at commit, while no server has a sequencer.';

comment on table pgws.forgotten is 'The position up to which rows of pgws.trimmed were deleted.';

comment on table pgws.large is 'Messages that are too large for a notification, until all servers have read them.';

comment on table pgws.messages is 'The messages of durable channels.';

comment on table pgws.migrations is 'The migrations that were applied.';

comment on table pgws.moves is 'Rows that a transaction is moving between partitions.';

comment on table pgws.outbox_0 is 'What was published from SQL, until it has been announced.';

comment on table pgws.outbox_1 is 'As pgws.outbox_0, in turn.';

comment on table pgws.outbox_2 is 'As pgws.outbox_0, in turn.';

comment on table pgws.passing_0 is 'Messages of channels that nobody retains, for some seconds, where a bus announces them.';

comment on table pgws.passing_1 is 'The second table like pgws.passing_0. The two are used in turn.';

comment on table pgws.retention is 'The retention rules of durable channels; see pgws.retain().';

comment on table pgws.revocations is 'The revoked tokens; see pgws.revoke().';

comment on table pgws.rounds is 'The rounds of the sequencer; the last one counts.';

comment on table pgws.secret is 'One row: the secret that announcements are signed with.';

comment on table pgws.sequencer is 'Which server is the sequencer.';

comment on table pgws.settings is 'One row: the epoch, the listen channel, and the oldest server version that can use the schema.';

comment on table pgws.trimmed is 'The position up to which messages of a channel were deleted.';

revoke execute on function pgws."position"() from public;

revoke execute on function pgws.advance_sequences() from public;

revoke execute on function pgws.announce(snapshot pg_snapshot, upto pg_snapshot, after bigint, cut bigint, since timestamp with time zone) from public;

revoke execute on function pgws.announcement(secret text, listen_channel text, previous bigint, first bigint, last bigint, without text) from public;

revoke execute on function pgws.beat(beyond bigint) from public;

revoke execute on function pgws.begin_anew(last pgws.rounds) from public;

revoke execute on function pgws.by_bus() from public;

revoke execute on function pgws.catch_up() from public;

revoke execute on function pgws.changed() from public;

revoke execute on function pgws.clean(rows integer) from public;

revoke execute on function pgws.defer_deletion(watched oid, relation oid, place tid, deletion jsonb) from public;

revoke execute on function pgws.empty_outbox(node text, term bigint, OUT bytes bigint, OUT blocked integer) from public;

revoke execute on function pgws.end_move() from public;

revoke execute on function pgws.enqueue(channel text, body text) from public;

revoke execute on function pgws.envelope(channel text, payload text, event text, more text) from public;

revoke execute on function pgws.fill(template text, record jsonb) from public;

revoke execute on function pgws.flush() from public;

revoke execute on function pgws.flush_later() from public;

revoke execute on function pgws.follow_moves(target regclass) from public;

revoke execute on function pgws.handle(listen_channel text, groups integer[], kinds text[], functions text[], channels text[], bodies text[], database_channels text[], keys text[], claims text[], roles text[]) from public;

revoke execute on function pgws.history(channel text, newest integer) from public;

revoke execute on function pgws.history(channel text, since text, limit_ integer) from public;

revoke execute on function pgws.is_foreign(type oid) from public;

revoke execute on function pgws.last_place() from public;

revoke execute on function pgws.last_position() from public;

revoke execute on function pgws.lead(node text, patience interval, OUT term bigint, OUT absence interval) from public;

revoke execute on function pgws.lead_as(node text, patience interval, mode bigint, OUT term bigint, OUT absence interval) from public;

revoke execute on function pgws.lead_bus(node text, patience interval, OUT term bigint, OUT absence interval) from public;

revoke execute on function pgws.log(beyond bigint, rows integer) from public;

revoke execute on function pgws.lose_move(moving tid) from public;

revoke execute on function pgws.mark(node text, term bigint, place bigint) from public;

revoke execute on function pgws.max_age(channel text) from public;

revoke execute on function pgws.max_bytes() from public;

revoke execute on function pgws.message_id(place bigint) from public;

revoke execute on function pgws.move() from public;

revoke execute on function pgws.moved_record(watched oid, command cid) from public;

revoke execute on function pgws.moving() from public;

revoke execute on function pgws.new_epoch() from public;

revoke execute on function pgws.notification(epoch text, place bigint, channel text, body text) from public;

revoke execute on function pgws.notify_revocation() from public;

revoke execute on function pgws.pattern_expression(pattern text) from public;

revoke execute on function pgws.place(snapshot pg_snapshot, upto pg_snapshot, after bigint, cut bigint, since timestamp with time zone) from public;

revoke execute on function pgws.places(beyond bigint, keys text[]) from public;

revoke execute on function pgws.publish(channel text, payload jsonb, event text) from public;

revoke execute on function pgws.publish_bytes(channel text, payload bytea) from public;

revoke execute on function pgws.publish_text(channel text, payload text, event text) from public;

revoke execute on function pgws.relay(retention_version bigint, listen_channel text, channels text[], bodies text[], ages interval[], keys text[]) from public;

revoke execute on function pgws.relay_as(retention_version bigint, listen_channel text, channels text[], bodies text[], ages interval[], keys text[], sql boolean) from public;

revoke execute on function pgws.relay_by_notify(retention_version bigint, listen_channel text, channels text[], bodies text[], ages interval[], keys text[]) from public;

revoke execute on function pgws.relay_quietly(retention_version bigint, listen_channel text, channels text[], bodies text[], ages interval[], keys text[]) from public;

revoke execute on function pgws.resign(node text, term bigint) from public;

revoke execute on function pgws.retain(pattern text, max_age interval, max_messages bigint) from public;

revoke execute on function pgws.revoke(jti text, sub text, issued_before timestamp with time zone, expires timestamp with time zone, reason text, revoked_by text) from public;

revoke execute on function pgws.round(since timestamp with time zone, OUT announced integer, OUT more boolean) from public;

revoke execute on function pgws.row_expression(target oid) from public;

revoke execute on function pgws.row_json(r anyelement, relation oid) from public;

revoke execute on function pgws.send(channel text, body text) from public;

revoke execute on function pgws.send_change(template text, columns jsonb, watched oid, partition text, operation text, record jsonb, old_record jsonb) from public;

revoke execute on function pgws.sequence(node text, term bigint, sleep boolean, since timestamp with time zone, OUT announced integer, OUT more boolean, OUT oldest text, OUT asleep_since text) from public;

revoke execute on function pgws.short(channel text) from public;

revoke execute on function pgws.store(channels text[], bodies text[], ages interval[], keys text[], times timestamp with time zone[], notified boolean) from public;

revoke execute on function pgws.tell() from public;

revoke execute on function pgws.tell_partitioned() from public;

revoke execute on function pgws.turn_passing(node text, term bigint) from public;

revoke execute on function pgws.unannounced(snapshot pg_snapshot, next_snapshot pg_snapshot) from public;

revoke execute on function pgws.unretain(pattern text) from public;

revoke execute on function pgws.unrevoke(id bigint) from public;

revoke execute on function pgws.unwatch(target regclass, channel text) from public;

revoke execute on function pgws.updating() from public;

revoke execute on function pgws.watch(target regclass, channel text, events text[], columns text[], condition text) from public;

revoke execute on function pgws.watched_table(relation oid, trigger_name name) from public;

grant execute on function pgws."position"() to pgws_publisher;

grant execute on function pgws."position"() to pgws_server;

grant execute on function pgws.beat(beyond bigint) to pgws_server;

grant execute on function pgws.by_bus() to pgws_server;

grant execute on function pgws.catch_up() to pgws_server;

grant execute on function pgws.clean(rows integer) to pgws_server;

grant execute on function pgws.empty_outbox(node text, term bigint, OUT bytes bigint, OUT blocked integer) to pgws_server;

grant execute on function pgws.follow_moves(target regclass) to pgws_publisher;

grant execute on function pgws.handle(listen_channel text, groups integer[], kinds text[], functions text[], channels text[], bodies text[], database_channels text[], keys text[], claims text[], roles text[]) to pgws_server;

grant execute on function pgws.history(channel text, newest integer) to pgws_server;

grant execute on function pgws.history(channel text, since text, limit_ integer) to pgws_server;

grant execute on function pgws.last_place() to pgws_server;

grant execute on function pgws.last_position() to pgws_server;

grant execute on function pgws.lead(node text, patience interval, OUT term bigint, OUT absence interval) to pgws_server;

grant execute on function pgws.lead_bus(node text, patience interval, OUT term bigint, OUT absence interval) to pgws_server;

grant execute on function pgws.log(beyond bigint, rows integer) to pgws_server;

grant execute on function pgws.mark(node text, term bigint, place bigint) to pgws_server;

grant execute on function pgws.max_age(channel text) to pgws_server;

grant execute on function pgws.message_id(place bigint) to pgws_server;

grant execute on function pgws.move() to pgws_publisher;

grant execute on function pgws.places(beyond bigint, keys text[]) to pgws_server;

grant execute on function pgws.publish(channel text, payload jsonb, event text) to pgws_publisher;

grant execute on function pgws.publish_bytes(channel text, payload bytea) to pgws_publisher;

grant execute on function pgws.publish_text(channel text, payload text, event text) to pgws_publisher;

grant execute on function pgws.relay(retention_version bigint, listen_channel text, channels text[], bodies text[], ages interval[], keys text[]) to pgws_server;

grant execute on function pgws.relay_quietly(retention_version bigint, listen_channel text, channels text[], bodies text[], ages interval[], keys text[]) to pgws_server;

grant execute on function pgws.resign(node text, term bigint) to pgws_server;

grant execute on function pgws.revoke(jti text, sub text, issued_before timestamp with time zone, expires timestamp with time zone, reason text, revoked_by text) to pgws_server;

grant execute on function pgws.sequence(node text, term bigint, sleep boolean, since timestamp with time zone, OUT announced integer, OUT more boolean, OUT oldest text, OUT asleep_since text) to pgws_server;

grant execute on function pgws.tell() to pgws_publisher;

grant execute on function pgws.tell_partitioned() to pgws_publisher;

grant execute on function pgws.turn_passing(node text, term bigint) to pgws_server;

grant execute on function pgws.unrevoke(id bigint) to pgws_server;

grant execute on function pgws.unwatch(target regclass, channel text) to pgws_publisher;

grant execute on function pgws.updating() to pgws_publisher;

grant execute on function pgws.watch(target regclass, channel text, events text[], columns text[], condition text) to pgws_publisher;

grant usage on schema pgws to public;

grant select on sequence pgws.positions to pgws_server;

grant select on table pgws.forgotten to pgws_server;

grant select on table pgws.large to pgws_server;

grant select on table pgws.messages to pgws_server;

grant select on table pgws.migrations to pgws_server;

grant select on table pgws.retention to pgws_server;

grant select on table pgws.revocations to pgws_server;

grant select on table pgws.secret to pgws_server;

grant select on table pgws.settings to pgws_server;

grant select on table pgws.trimmed to pgws_server;
