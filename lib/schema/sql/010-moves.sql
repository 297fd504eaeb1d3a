-- A row that moves to another partition is one UPDATE.
--
-- PostgreSQL deletes it there and inserts it here: BEFORE UPDATE and DELETE triggers fire on its old partition, a BEFORE
-- INSERT trigger on the new one; then, at the end of the statement, AFTER DELETE and AFTER INSERT triggers, one right
-- after the other, and no AFTER UPDATE trigger (https://www.postgresql.org/docs/current/trigger-definition.html). Transition
-- tables are no way out: they fail where a partition is a foreign table, and on MERGE they have a DELETE and an INSERT, too.
--
-- A BEFORE UPDATE trigger notes the row in pgws.updating_<depth>. The WHEN condition of an AFTER DELETE trigger is evaluated
-- as soon as the row is deleted: where it is the row that was noted, it moves. The trigger then puts the row into pgws.moves,
-- and where that is into pgws.moving_<depth>; the AFTER INSERT triggers that follow find it there. The depth is that of
-- triggers (pg_trigger_depth()): between the two, triggers of others may move other rows.
--
-- Settings are anybody's to write, so they hold places alone, and pgws.moves is read by them alone: no search, no index,
-- and so no conflict between serializable transactions.

-- Rows that the transaction is moving. Empty to everybody else.
create table pgws.moves (
  transaction bigint not null,
  watched oid not null,
  relation oid not null,
  place tid not null,
  old_record jsonb not null,
  -- Who is told of a DELETE if the row does not arrive: lists of a channel's template, its columns, and the partition.
  deletions jsonb not null default '[]'
);
revoke all on pgws.moves from public;

-- The table of whose trigger this is a partition's copy.
create function pgws.watched_table(relation oid, trigger_name name) returns oid
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
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
end $$;

-- Where the row is that has been deleted last, at the caller's depth; null where it has arrived.
create function pgws.moving() returns tid
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return nullif(current_setting('pgws.moving_' || pg_trigger_depth(), true), '')::tid;
end $$;

-- Ends a move: its row has not arrived, because a BEFORE INSERT trigger has dropped it.
create function pgws.lose_move(moving tid) returns void
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_tidscan = on as $$
#variable_conflict use_variable
declare
  lost pgws.moves;
  deletion jsonb;
begin
  delete from pgws.moves m where m.ctid = moving and m.transaction = txid_current() returning m.* into lost;
  for deletion in select jsonb_array_elements(lost.deletions) loop
    perform pgws.send_change(deletion ->> 0, deletion -> 1, lost.watched, deletion ->> 2, 'DELETE', null, lost.old_record);
  end loop;
end $$;

-- The old record of a row that a command has inserted, where it has moved there; null where it is new: then no other row
-- that moves will arrive. (The commands of triggers between, and later ones, have greater numbers than that which has
-- written the row of pgws.moves.)
create function pgws.moved_record(watched oid, command cid) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_tidscan = on as $$
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
end $$;

-- Keeps a DELETE for the case that the row does not arrive. False where it does not move.
create function pgws.defer_deletion(watched oid, relation oid, place tid, deletion jsonb) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_tidscan = on as $$
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
end $$;

-- Notes which row is updated. BEFORE UPDATE; the statement's own depth is one less.
create function pgws.updating() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform set_config('pgws.updating_' || (pg_trigger_depth() - 1), tg_relid::text || old.ctid::text, true);
  return new;
end $$;

-- Begins a move (AFTER DELETE, before the triggers of pgws.tell_partitioned(), by its name), and ends it (AFTER INSERT,
-- after them).
create function pgws.move() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_tidscan = on as $$
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
end $$;

-- At commit.
create function pgws.end_move() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform pgws.lose_move(new.ctid);
  return null;
end $$;
create constraint trigger end_move after insert or update on pgws.moves
  deferrable initially deferred for each row execute function pgws.end_move();

-- Turns changes of a partitioned table into messages. Arguments: the channel's template; the columns as a JSON list or
-- 'null'; 'moves' on INSERT where only rows that move there are told of.
create or replace function pgws.tell_partitioned() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
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
end $$;

-- Creates the triggers that all watches of a partitioned table share.
create function pgws.follow_moves(target regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
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
end $$;

revoke all on function pgws.watched_table, pgws.moving, pgws.lose_move, pgws.moved_record, pgws.defer_deletion, pgws.updating,
  pgws.move, pgws.end_move, pgws.follow_moves from public;
-- Who may watch a partitioned table may go on to do so.
do $$
declare
  publisher pg_catalog.regrole;
begin
  for publisher in
    select a.grantee from pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a
    where p.oid = 'pgws.tell_partitioned()'::pg_catalog.regprocedure and a.privilege_type = 'EXECUTE' and a.grantee <> 0
      and a.grantee <> p.proowner
  loop
    execute pg_catalog.format('grant execute on function pgws.updating, pgws.move, pgws.follow_moves to %s', publisher);
  end loop;
end $$;
-- Tables that are watched already. (Where another role must do it, moves stay what they were until pgws.watch() is called.)
do $$
declare
  target pg_catalog.regclass;
begin
  for target in
    select distinct t.tgrelid from pg_catalog.pg_trigger t join pg_catalog.pg_class c on c.oid = t.tgrelid
    where t.tgfoid = 'pgws.tell_partitioned()'::pg_catalog.regprocedure and t.tgparentid = 0 and not c.relispartition
  loop
    begin
      perform pgws.follow_moves(target);
    exception when insufficient_privilege then null;
    end;
  end loop;
end $$;

comment on table pgws.moves is 'Rows that a transaction is moving between partitions.';
comment on function pgws.watched_table is 'The watched table of a trigger. For: the owner.';
comment on function pgws.moving is 'Where the row is that moves now. For: the owner.';
comment on function pgws.lose_move is 'Ends the move of a row that has not arrived. For: the owner.';
comment on function pgws.moved_record is 'What a row was before it moved. For: the owner.';
comment on function pgws.defer_deletion is 'Keeps a DELETE until its row has arrived elsewhere. For: the owner.';
comment on function pgws.end_move is 'Trigger function of pgws.moves. For: the owner.';
comment on function pgws.updating is 'The trigger function that notes which row is updated. For: pgws_publisher.';
comment on function pgws.move is 'The trigger function of rows that move. For: pgws_publisher.';
comment on function pgws.follow_moves is 'Creates the triggers that notice moves. For: pgws_publisher.';
