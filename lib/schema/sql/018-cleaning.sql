-- Deleting expired messages costs no more while a transaction stays open for long; and expired revocations are deleted.
--
-- Until such a transaction ends, deleted rows stay in the index, and a search for the oldest messages passes all of them. So
-- the search begins where the last one ended. Messages may expire before that (of a channel with a very short retention, or
-- restored ones), so every ten minutes, and after each change of the retention rules, it begins at the beginning.
-- The time is that of the statement: clock_timestamp() is volatile, and no condition for an index, so that with fewer expired
-- messages than are asked for all others were looked at.
alter table pgws.cleaning
  add column cleaned_to timestamptz not null default '-infinity',
  add column swept_at timestamptz not null default '-infinity',
  add column swept_version bigint not null default -1;
comment on column pgws.cleaning.cleaned_to is 'Messages that expired before this time have been deleted, with few exceptions.';
comment on column pgws.cleaning.swept_at is 'When all expired messages were last searched for.';
comment on column pgws.cleaning.swept_version is 'The version of the retention rules then.';

create or replace function pgws.clean(rows integer default 5000) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp
-- Whatever the statistics say, only the rows that are deleted are looked at.
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
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
end $$;
