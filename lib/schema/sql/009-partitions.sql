-- Watched partitioned tables, and what pgws.watch() refuses.
-- A row as JSON, without calling a function of a stranger.
create function pgws.row_json(r anyelement, relation oid) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
set "DateStyle" = 'ISO, MDY' set "IntervalStyle" = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1 as $$
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
end $$;

-- Sends a change of a partitioned table. columns: a JSON list, or null for all.
create function pgws.send_change(template text, columns jsonb, watched oid, partition text, operation text,
  record jsonb, old_record jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
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
end $$;

-- Turns changes of a partitioned table into messages. Arguments: the channel's template, the columns as a JSON list or
-- 'null'.
create function pgws.tell_partitioned() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  fresh jsonb;
  old_record jsonb;
  parent oid;
begin
  -- A partition has a copy of its parent's trigger.
  with recursive triggers as (
    select t.tgrelid, t.tgparentid from pg_trigger t where t.tgrelid = tg_relid and t.tgname = tg_name
    union all
    select p.tgrelid, p.tgparentid from triggers t join pg_trigger p on p.oid = t.tgparentid
  )
  select t.tgrelid into strict parent from triggers t where t.tgparentid = 0;

  if tg_op in ('INSERT', 'UPDATE') then fresh := pgws.row_json(new, tg_relid); end if;
  if tg_op in ('UPDATE', 'DELETE') then old_record := pgws.row_json(old, tg_relid); end if;
  perform pgws.send_change(tg_argv[0], tg_argv[1]::jsonb, parent, case when tg_level = 'ROW' then tg_table_name end,
    tg_op, fresh, old_record);
  return null;
end $$;

create or replace function pgws.watch(target regclass, channel text, events text[] default '{INSERT,UPDATE,DELETE}',
  columns text[] default null, condition text default null) returns void
language plpgsql set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as $$
#variable_conflict use_variable
declare
  event text;
  row_name text;
  missing text;
  kind "char" := (select c.relkind from pg_class c where c.oid = target);
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
end $$;

create or replace function pgws.unwatch(target regclass, channel text default null) returns void
language plpgsql set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as $$
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
end $$;

revoke all on function pgws.row_json, pgws.send_change, pgws.tell_partitioned from public;
-- Who may watch a table may watch a partitioned one.
do $$
declare
  publisher pg_catalog.regrole;
begin
  for publisher in
    select a.grantee from pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a
    where p.oid = 'pgws.tell()'::pg_catalog.regprocedure and a.privilege_type = 'EXECUTE' and a.grantee <> 0
      and a.grantee <> p.proowner
  loop
    execute pg_catalog.format('grant execute on function pgws.tell_partitioned to %s', publisher);
  end loop;
end $$;

comment on function pgws.row_json is 'A row as JSON. For: the owner.';
comment on function pgws.send_change is 'Sends a change of a partitioned table. For: the owner.';
comment on function pgws.tell_partitioned is 'The trigger function of pgws.watch() on partitioned tables. For: pgws_publisher.';
