-- Messages and connections that are passed to functions of the database's owner, in the transaction that publishes
-- what comes of them. Each group (all that one client sends at once) is a subtransaction: what raises takes nothing
-- else with it. Each runs as its sender, and what it leaves behind in the session is gone before the next.

-- Calls the functions of some groups and publishes their messages, in order. Of each item: its group (1, 2, ...), its
-- kind ('message', 'connect', 'disconnect'), the function to call, quoted, or null; the websocket channel; the body:
-- an envelope, a raw channel's payload, or what a connection's function is told; a raw channel's database channel, or
-- null; the message's key. Of each group: its sender's claims and role, or null.
--
-- Answers {"done": how many of the groups, "failures": [{"group", "sqlstate", "message", "role"}]}; role: the sender's
-- role could not be taken. Raises what is no fault of a message, with nothing done: deadlocks and the like.
--
-- Not a security definer, and without a search path of its own, since functions are called as the sender.
create function pgws.handle(listen_channel text, groups integer[], kinds text[], functions text[], channels text[],
  bodies text[], database_channels text[], keys text[], claims text[], roles text[]) returns jsonb
language plpgsql as $$
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
        -- A key that its sender chose: only then may the message have been here before.
        sent_before := null;
        if array_to_string(keys[first:last], ' ') like '%http:%' then
          sent_before := array(
            select k like 'http:%' and exists (select from pgws.messages m where m.key = k)
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
          continue when functions[i] is null or coalesce(sent_before[i - first + 1], false);
          if kinds[i] = 'message' then
            told := case when database_channels[i] is null then bodies[i]::jsonb else jsonb_build_object(
              'event', 'WebsocketMessage', 'channel', channels[i], 'payload', bodies[i], 'claims', claims[g]::jsonb) end;
            execute 'select ' || functions[i] || '($1)' into answer using told;
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
                body := format('{"event":%s,"channel":%s,"payload":%s,"claims":%s%s}',
                  told -> 'event', told -> 'channel', told -> 'payload',
                  coalesce(nullif(told -> 'claims', 'null'), '{}')
                    || jsonb_build_object('message_delivered_at', bodies[i]::jsonb #> '{claims,message_delivered_at}'),
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
          elsif kinds[i] = 'connect' then
            told := bodies[i]::jsonb;
            execute 'select ' || functions[i] || '($1, $2, $3)' using claims[g]::jsonb,
              array(select jsonb_array_elements_text(told -> 'channels')), told ->> 'connection';
          else
            told := bodies[i]::jsonb;
            execute 'select ' || functions[i] || '($1, $2, $3, $4)' using claims[g]::jsonb,
              array(select jsonb_array_elements_text(told -> 'channels')), told ->> 'connection', told ->> 'reason';
          end if;
        end loop;
        reset role;
        reset all;
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

revoke all on function pgws.handle from public;
do $$
begin
  if exists (select from pg_roles where rolname = 'pgws_server') then
    grant execute on function pgws.handle to pgws_server;
  end if;
end $$;
