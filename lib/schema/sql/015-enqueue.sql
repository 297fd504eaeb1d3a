-- Publishing costs the writer less: one function less between it and the outbox, and one look at the sequencer's state.
--
-- Of many writers at once, each look at a sequence waits for the others, and each statement within a function costs several
-- times what it costs a lone one. So functions are called in assignments, which PL/pgSQL evaluates without a statement of
-- their own (https://www.postgresql.org/docs/current/plpgsql-expressions.html).

-- Takes what a transaction publishes. Always true.
create function pgws.enqueue(channel text, body text) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
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
end $$;
revoke execute on function pgws.enqueue(text, text) from public;
comment on function pgws.enqueue is 'Publishes an envelope. For: the owner.';

create or replace function pgws.send(channel text, body text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform pgws.enqueue(channel, body);
end $$;

create or replace function pgws.publish(channel text, payload jsonb, event text default 'Message') returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare sent boolean;
begin
  sent := pgws.enqueue(channel, pgws.envelope(channel, payload::text, event));
end $$;

create or replace function pgws.publish_text(channel text, payload text, event text default 'Message') returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare sent boolean;
begin
  sent := pgws.enqueue(channel, pgws.envelope(channel, to_json(payload)::text, event));
end $$;

create or replace function pgws.publish_bytes(channel text, payload bytea) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare sent boolean;
begin
  sent := pgws.enqueue(channel, pgws.envelope(channel,
    to_json(replace(encode(payload, 'base64'), E'\n', ''))::text, 'Bytes', ',"encoding":"base64"'));
end $$;

create or replace function pgws.tell() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp set datestyle = 'ISO, MDY' set intervalstyle = 'postgres' set bytea_output = 'hex'
set extra_float_digits = 1 as $$
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
end $$;
