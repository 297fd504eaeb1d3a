-- The last position of what was deleted is asked for once a second, and by clients that resume.
create index trimmed_position on pgws.trimmed (position);

-- Numbers continue after those that the tables have. Sequences can be behind their tables: logical replication copies rows and no
-- sequences (https://www.postgresql.org/docs/current/logical-replication-restrictions.html), and so do some restores. Then
-- nothing could be stored until the numbers had caught up.
create function pgws.advance_sequences() returns void
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
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
end $$;
revoke execute on function pgws.advance_sequences() from public;
comment on function pgws.advance_sequences is 'Moves sequences that are behind their tables. For: the owner.';

create or replace function pgws.lead(node text, patience interval, out term bigint, out absence interval)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  before pgws.sequencer;
  this_database constant text := (select c.system_identifier from pg_control_system() c)
    || '/' || (select d.oid from pg_database d where d.datname = current_database());
begin
  select * into before from pgws.sequencer s
    where s.node is not distinct from lead.node or s.until < clock_timestamp() for update;
  if not found then return; end if;
  term := before.term + case when before.node is not distinct from lead.node then 0 else 1 end;
  absence := greatest(clock_timestamp() - before.until, '0');
  update pgws.sequencer s set node = lead.node, term = lead.term, until = clock_timestamp() + patience, database = this_database;
  perform pgws.advance_sequences();
  -- A copy of a database, or its restore, has messages of its own from here on.
  if before.database <> this_database then perform pgws.new_epoch(); end if;
  if pg_sequence_last_value('pgws.outbox_state') is null then perform setval('pgws.outbox_state', 1); end if;
end $$;
