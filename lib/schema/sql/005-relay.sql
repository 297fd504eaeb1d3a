-- A key that comes twice in one transaction is one message. What a function of the database's owner adds to a message
-- reaches its readers.

-- What the server sends, in a transaction of its own: notifies each body, and stores those with an age. A key that
-- is there already was sent before, and is passed over. Answers the number that was stored, or null where the
-- server's copy of pgws.retention is old: then nothing was done.
create or replace function pgws.relay(retention_version bigint, listen_channel text, channels text[], bodies text[], ages interval[], keys text[])
returns bigint language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
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

-- Calls the functions of some groups and publishes their messages, in order. Of each item: its group (1, 2, ...), its
-- kind ('message', 'connect', 'disconnect'), the function to call, quoted, or null; the websocket channel; the body:
-- an envelope, a raw channel's payload, or what a connection's function is told; a raw channel's database channel, or
-- null; the message's key. Of each group: its sender's claims and role, or null.
--
-- Answers {"done": how many of the groups, "failures": [{"group", "sqlstate", "message", "role"}]}; role: the sender's
-- role could not be taken. Raises what is no fault of a message, with nothing done: deadlocks and the like.
--
-- Not a security definer, because functions are called as the sender; and with the search path that the session has.
create or replace function pgws.handle(listen_channel text, groups integer[], kinds text[], functions text[], channels text[],
  bodies text[], database_channels text[], keys text[], claims text[], roles text[]) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp as $$
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
    where database_channel is null and (octet_length(o.body) >= 8000 or pgws.max_age(o.channel) is not null)
  ) then
    -- Raw channels' payloads pass as they are. Those at the beginning go first: what encloses a publication must enclose
    -- all of it.
    begin_at := coalesce(array_position(array(select d is null from unnest(out_database) d), true), 1);
    perform pg_notify(o.channel, o.body) from unnest(out_database, out_bodies) with ordinality as o (channel, body, n)
      where n < begin_at order by n;
    if (
      select pgws.relay(version, listen_channel, array_agg(channel order by n), array_agg(o.body order by n),
        array_agg(pgws.max_age(channel) order by n), array_agg(case when pgws.max_age(channel) is not null then key end order by n))
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
end $$;
