-- Which migrations a database has, and which servers work with it.
--
-- A server finds a migration of its own in a file `<number>-<name>.sql` of this folder, and counts by numbers. A
-- migration is additive: servers that do not know it go on working beside it. One that is not says so in a line
-- "-- oldest server: <number>", the number of the last migration that a server must know. pgws.settings.version is the
-- greatest of those numbers: a server ends where it exceeds what the server knows.

create table pgws.migrations (
  number integer primary key,
  name text not null,
  applied_at timestamptz not null default pg_catalog.clock_timestamp(),
  -- The last migration that a server must know to work beside this one.
  oldest_server integer not null check (oldest_server <= number)
);
insert into pgws.migrations (number, name, oldest_server)
  values (1, 'durable-channels', 1), (2, 'handlers', 2);

-- Whoever reads the settings of the schema reads this, too. (No column of pgws.settings: to add one would lock out all
-- who publish, and could deadlock with them.)
do $$
declare
  reader pg_catalog.regrole;
begin
  for reader in
    select a.grantee from pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
    where c.oid = 'pgws.settings'::pg_catalog.regclass and a.privilege_type = 'SELECT' and a.grantee <> 0
      and a.grantee <> c.relowner
  loop
    execute pg_catalog.format('grant select on pgws.migrations to %s', reader);
  end loop;
end $$;
