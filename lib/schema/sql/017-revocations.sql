-- Tokens can be revoked before they expire: one by its claim jti, or all tokens of a subject that were issued before a moment.
create table pgws.revocations (
  id bigint generated always as identity primary key,
  jti text unique check (octet_length(jti) <= 1024),
  sub text unique check (octet_length(sub) <= 1024),
  issued_before timestamptz check (issued_before > '-infinity'),
  expires_at timestamptz not null,
  reason text,
  revoked_by text not null,
  revoked_at timestamptz not null default now(),
  check ((jti is null) <> (sub is null)),
  check ((sub is null) = (issued_before is null))
);
create index revocations_expires on pgws.revocations (expires_at);
revoke all on pgws.revocations from public;

-- Each server reads the rows that it is notified of. Any role may notify anything, so the notification itself revokes nothing.
create function pgws.notify_revocation() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if tg_op <> 'INSERT' then
    perform pg_notify('pgws_revocations', old.id::text);
  end if;
  if tg_op <> 'DELETE' then
    perform pg_notify('pgws_revocations', new.id::text);
  end if;
  return null;
end $$;
create trigger notify after insert or update or delete on pgws.revocations
  for each row execute function pgws.notify_revocation();
alter table pgws.revocations enable always trigger notify;

create function pgws.revoke(
  jti text default null, sub text default null, issued_before timestamptz default null,
  expires timestamptz default 'infinity', reason text default null, revoked_by text default null
) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
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
end $$;

-- Withdraws a revocation. Returns whether there was one.
create function pgws.unrevoke(id bigint) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
  delete from pgws.revocations r where r.id = unrevoke.id;
  return found;
end $$;

revoke all on function pgws.notify_revocation, pgws.revoke, pgws.unrevoke from public;
do $$
declare
  reader pg_catalog.regrole;
begin
  for reader in
    select a.grantee from pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
    where c.oid = 'pgws.settings'::pg_catalog.regclass and a.privilege_type = 'SELECT' and a.grantee <> 0
      and a.grantee <> c.relowner
  loop
    execute pg_catalog.format('grant select on pgws.revocations to %s', reader);
    execute pg_catalog.format('grant execute on function pgws.revoke, pgws.unrevoke to %s', reader);
  end loop;
end $$;

comment on table pgws.revocations is 'The revoked tokens; see pgws.revoke().';
comment on column pgws.revocations.jti is 'The claim "jti" of a revoked token.';
comment on column pgws.revocations.sub is 'The claim "sub" of revoked tokens.';
comment on column pgws.revocations.issued_before is 'Tokens of "sub" are revoked if their claim "iat" is before this time, or missing.';
comment on column pgws.revocations.expires_at is 'When the last of the tokens expires. Then the row is deleted.';
comment on function pgws.notify_revocation is 'The trigger function of pgws.revocations. For: the owner.';
comment on function pgws.revoke is 'Revokes the token with a "jti", or the tokens of a "sub" that were issued before a time (default: now). "expires" says when the last of them expires. Returns the id of the revocation. For: pgws_server.';
comment on function pgws.unrevoke is 'Withdraws a revocation. Returns whether there was one. For: pgws_server.';
