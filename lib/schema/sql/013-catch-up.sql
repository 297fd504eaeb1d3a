-- Announces what was committed before, also where a round has left something to the next ones: what has become visible since
-- that round is in none of them.
create or replace function pgws.catch_up() returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
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
end $$;
