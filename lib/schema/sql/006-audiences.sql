-- Whose types a table may have, and who may use which function.

-- Whether to_jsonb() of a type may call a function of a stranger: it looks for a cast to json, which the owner of a type
-- can make. PostgreSQL's own types have none; those of a superuser or of our owner are trusted.
create function pgws.is_foreign(type oid) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
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
$$;

-- The statement that makes JSON of a table's row without calling a function of a stranger: values of foreign types
-- become their text. null: to_jsonb() does.
create function pgws.row_expression(target oid) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
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
$$;

-- Turns a table's changes into messages. Arguments: the channel's template, the columns as a JSON list or 'null'.
create or replace function pgws.tell() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  columns jsonb := tg_argv[1]::jsonb;
  fresh jsonb;
  old_record jsonb;
  body text;
  one text;
  other text;
  expression text;
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

create or replace function pgws.watch(target regclass, channel text, events text[] default '{INSERT,UPDATE,DELETE}',
  columns text[] default null, condition text default null) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  event text;
  row_name text;
  missing text;
begin
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

revoke all on function pgws.is_foreign, pgws.row_expression from public;
-- Whoever watches a table sends messages to any channel. USAGE of the schema stays with everybody: to_regclass(), with
-- which clients see whether it is there, raises without it.
revoke all on function pgws.watch, pgws.unwatch, pgws.tell from public;
do $$
declare
  owner pg_catalog.regrole;
begin
  if exists (select from pg_catalog.pg_roles where rolname = 'pgws_publisher') then
    grant execute on function pgws.watch, pgws.unwatch, pgws.tell to pgws_publisher;
  end if;
  -- Whoever owns a watched table goes on.
  for owner in
    select distinct c.relowner from pg_catalog.pg_trigger t join pg_catalog.pg_class c on c.oid = t.tgrelid
    where t.tgfoid = 'pgws.tell'::pg_catalog.regproc and not t.tgisinternal
      and not pg_catalog.has_function_privilege(c.relowner, 'pgws.tell()', 'execute')
  loop
    begin
      execute pg_catalog.format('grant pgws_publisher to %s', owner);
    exception when insufficient_privilege or undefined_object then
      execute pg_catalog.format('grant execute on function pgws.watch, pgws.unwatch, pgws.tell to %s', owner);
    end;
  end loop;
end $$;

comment on table pgws.settings is 'One row: the epoch, the listen channel, and which servers the schema is for.';
comment on table pgws.migrations is 'Which migrations the schema has.';
comment on table pgws.retention is 'Which channels are durable: see pgws.retain().';
comment on table pgws.messages is 'The messages of durable channels.';
comment on table pgws.large is 'Messages that are too large for a notification, until every server has read them.';
comment on table pgws.trimmed is 'Up to which position a channel''s messages are gone.';
comment on table pgws.forgotten is 'Up to which position messages of channels are gone that pgws.trimmed has no more.';
comment on table pgws.commit_lock is 'Locked from the positions of a transaction''s messages to the end of its commit.';
comment on table pgws.flushes is 'Transactions that get positions at their commit.';
comment on table pgws.cleaning is 'Locked by the session that deletes old messages.';

comment on function pgws.publish is 'Publishes a JSON payload, in your transaction. For: pgws_publisher.';
comment on function pgws.publish_text is 'Publishes a text, in your transaction. For: pgws_publisher.';
comment on function pgws.publish_bytes is 'Publishes bytes, in your transaction. For: pgws_publisher.';
comment on function pgws.watch is 'Sends a table''s changes to a channel; {column} in it is the row''s value. For: pgws_publisher.';
comment on function pgws.unwatch is 'Ends pgws.watch(), of one channel or of all. For: pgws_publisher.';
comment on function pgws.tell is 'The trigger function of pgws.watch(). For: pgws_publisher.';
comment on function pgws.retain is 'Keeps the messages of the channels that match a pattern. For: the owner.';
comment on function pgws.unretain is 'Ends pgws.retain(), and deletes what it kept. For: the owner.';
comment on function pgws.new_epoch is 'To be called after a restore: old ids are gaps from then on. For: the owner.';
comment on function pgws.history is 'The stored messages of a channel after an id. For: pgws_server.';
comment on function pgws.relay is 'Publishes what servers send. For: pgws_server.';
comment on function pgws.handle is 'Passes messages and connections to functions of the database''s owner. For: pgws_server.';
comment on function pgws.clean is 'Deletes some of the messages that are too old or too many. For: pgws_server.';
comment on function pgws.max_age is 'How long messages of a channel are kept; null: it is not durable. For: pgws_server.';
comment on function pgws.message_id is 'The id of a position. For: pgws_server.';
comment on function pgws.send is 'Sends an envelope. For: the owner.';
comment on function pgws.envelope is 'The envelope of a payload. For: the owner.';
comment on function pgws.notification is 'How a stored message is notified: whole, or as a reference. For: the owner.';
comment on function pgws.short is 'A channel''s name, where it fits into a reference. For: the owner.';
comment on function pgws.max_bytes is 'The size of the largest message, in bytes. For: the owner.';
comment on function pgws.pattern_expression is 'The regular expression of a pattern. For: the owner.';
comment on function pgws.changed is 'Tells servers that pgws.retention has changed. For: the owner.';
comment on function pgws.fill is 'Fills the channel of pgws.watch() with a row''s values. For: the owner.';
comment on function pgws.is_foreign is 'Whether to_jsonb() of a type may call a function of a stranger. For: the owner.';
comment on function pgws.row_expression is 'The statement that makes JSON of a table''s row. For: the owner.';
comment on function pgws.flush_later is 'Trigger function of pgws.messages. For: the owner.';
comment on function pgws.flush is 'Trigger function of pgws.flushes. For: the owner.';
