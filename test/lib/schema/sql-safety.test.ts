import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import pg from 'pg'
import t, { type Test } from 'tap'
import { migrate } from '../../../lib/schema/migrate.js'
import { build, LISTEN_CHANNEL, open, query, token, until, withPostgres } from '../../support/helper.js'
import { createDatabase } from '../../support/postgres.js'
import { root } from '../../support/root.js'
import { statementsOf, unqualified } from '../../support/sql-lint.js'

const { postgres } = await withPostgres(t)

/** Roles belong to the cluster, so each test has its own. */
let roles = 0

/** A database whose schema belongs to a role of its own, so that code which runs as the owner can be recognized. */
async function installed(): Promise<string> {
  const dbUri = await createDatabase(postgres)
  const client = new pg.Client(dbUri)
  await client.connect()
  await migrate(client, LISTEN_CHANNEL)
  await client.end()
  return dbUri
}

/** A role that can log in, and is a member of others. */
async function role(dbUri: string, ...memberships: string[]): Promise<{ name: string; uri: string }> {
  const name = `role_${++roles}`
  await query(dbUri, `create role ${name} login`)
  for (const group of memberships) await query(dbUri, `grant ${group} to ${name}`)
  return { name, uri: dbUri.replace(/\/\/[^@/]*@/, `//${name}@`) }
}

interface Attack {
  client: pg.Client
  /** The roles as which the attacker's code has run so far. */
  victims: () => Promise<string[]>
}

/** The session of an attacker. The function `trap()` records the role as which it runs. */
async function attack(t: Test, dbUri: string, { name, uri }: { name: string; uri: string }): Promise<Attack> {
  await query(
    dbUri,
    'create table if not exists public.trapped (who text); truncate public.trapped; grant all on public.trapped to public'
  )
  const client = new pg.Client(uri)
  await client.connect()
  t.teardown(() => client.end())
  return {
    client,
    async victims() {
      const { rows } = await query(dbUri, 'select distinct who from public.trapped where who <> $1', [name])
      return rows.map(({ who }) => who)
    }
  }
}

const TRAP = `language plpgsql as $$ begin insert into public.trapped values (current_user); return true; end $$`

t.test('each function sets its search path, or qualifies every name', async (t) => {
  const { rows } = await query(
    await installed(),
    `select p.proname, l.lanname, p.prosecdef, p.proconfig, p.prosrc,
      has_function_privilege('public', p.oid, 'execute') as public
     from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang
     where n.nspname = 'pgws' order by 1`
  )
  t.ok(rows.length > 20)
  for (const { proname, lanname, prosecdef, proconfig, prosrc, public: everybody } of rows) {
    const fixed = (proconfig ?? []).includes('search_path=pg_catalog, pg_temp')
    if (lanname !== 'sql' || prosecdef || everybody) t.ok(fixed, `pgws.${proname} has "pg_catalog, pg_temp"`)
    else if (!fixed) t.same(unqualified(prosrc), [], `pgws.${proname} names everything in full`)
    t.notOk(everybody, `pgws.${proname} is not for everybody`)
  }
})

t.test('each function and table has a comment, and each function names its role', async (t) => {
  const { rows } = await query(
    await installed(),
    `select 'function pgws.' || p.proname as name, obj_description(p.oid, 'pg_proc') as comment,
      (select coalesce(string_agg(a.grantee::regrole::text, ', ' order by 1), 'the owner') from aclexplode(p.proacl) a
       where a.grantee not in (0, p.proowner)) as audience
     from pg_proc p where p.pronamespace = 'pgws'::regnamespace
     union all
     select 'table pgws.' || c.relname, obj_description(c.oid, 'pg_class'), null
     from pg_class c where c.relnamespace = 'pgws'::regnamespace and c.relkind = 'r'`
  )
  for (const { name, comment, audience } of rows) {
    t.type(comment, 'string', `${name} has a comment`)
    if (audience !== null) t.match(comment, new RegExp(` For: ${audience}\\.$`), `${name} is for ${audience}`)
  }
})

t.test('the statements in the sources qualify every name', (t) => {
  const sources = ['lib', 'plugins', 'routes']
    .flatMap((folder) =>
      readdirSync(join(root, folder), { recursive: true }).map((file) => `${folder}/${file}`)
    )
    .concat('app.ts', 'cli.ts', 'emitter.ts', 'index.ts', 'socket.io.ts')
    .filter((file) => file.endsWith('.ts'))
  let statements = 0
  for (const file of sources) {
    for (const { line, sql } of statementsOf(file, readFileSync(join(root, file), 'utf8'))) {
      // It is printed for a person, who runs it with psql.
      if (sql.includes("'Hello from SQL'")) continue
      statements++
      t.same(unqualified(sql), [], `${file}:${line}`)
    }
  }
  t.ok(statements > 40)
  t.end()
})

t.test('the linter finds names that are resolved through the search path', (t) => {
  for (const [sql, found] of [
    ['select unnest($1::text[])', ['unnest()', '::text']],
    ['select pg_catalog.unnest($1::pg_catalog.text[])', []],
    ['select x from pgws.settings where a = b', ['=']],
    ['select x from pgws.settings where a operator(pg_catalog.=) b', []],
    ['select x from settings', ['relation settings']],
    ['with s as (select 1) select count(*) from s', ['count()']],
    ['update pgws.settings set a = 1, b = 2 where c <> 3', ['<>']],
    ["select a in (1) or b like 'c' or d is distinct from e", ['in', 'like', 'is distinct from']],
    ['select a from pgws.x join pgws.y using (a)', ['using']],
    ['select case a when 1 then 2 end', ['case with a value']],
    ['select * from rows from (pg_catalog.unnest($1)) with ordinality as n (a, b)', []],
    ['insert into pgws.x (a) values ($1) on conflict (a) do nothing', []]
  ] as const) {
    t.same(unqualified(sql), found, sql)
  }
  t.end()
})

t.test('types that a role creates in pg_temp do not run code as another role', async (t) => {
  const dbUri = await installed()
  await query(dbUri, `select pgws.retain('kept', '1 hour')`)
  for (const groups of [[], ['pgws_publisher'], ['pgws_server']]) {
    const { client, victims } = await attack(t, dbUri, await role(dbUri, ...groups))
    await client.query(`create function pg_temp.trap(x pg_catalog.text) returns boolean ${TRAP}`)
    for (const type of [
      'jsonb',
      'json',
      'text',
      'interval',
      'timestamptz',
      'bytea',
      'int8',
      'int4',
      'regclass'
    ]) {
      await client.query(
        `create domain pg_temp.${type} as pg_catalog.${type} check (pg_temp.trap(value::pg_catalog.text))`
      )
    }
    await client.query(`select 'x'::pg_temp.text`)
    const { rows } = await query(dbUri, 'select count(*)::int as trapped from public.trapped')
    t.ok(rows[0].trapped > 0, 'the trap works')
    await client.query('create temp table mine (a pg_catalog.int4, b pg_catalog.text)')
    const attempts = [
      `select pgws.watch('mine', 'kept')`,
      `insert into mine values (1, 'x')`,
      `update mine set b = 'y'`,
      `create trigger own after insert on mine for each row execute function pgws.tell('kept', 'null')`,
      `insert into mine values (2, 'x')`,
      `select pgws.unwatch('mine')`,
      ...['kept', 'other'].flatMap((channel) => [
        `select pgws.publish('${channel}', '{"a":1}')`,
        `select pgws.publish_text('${channel}', 'x')`,
        `select pgws.publish_text('${channel}', repeat('x', 9000))`,
        `select pgws.publish_bytes('${channel}', 'x')`
      ]),
      `select pgws.relay((select retention_version from pgws.settings), 'c', '{kept}', '{"{\\"a\\":1}"}', '{1 hour}', '{k}')`,
      `select pgws.handle('c', '{1}', '{message}', '{null}', '{kept}', '{"{\\"a\\":1}"}', '{null}', '{k2}', '{null}', '{null}')`,
      `select * from pgws.history('kept')`,
      'select pgws.clean()'
    ]
    const failures = new Set<string>()
    for (const statement of attempts) {
      await client.query(statement).catch((error) => failures.add(error.code))
    }
    t.same(await victims(), [], `as a member of ${groups}`)
    // Statements are rejected because of missing rights.
    t.same(
      [...failures].filter((code) => code !== '42501'),
      []
    )
  }
})

t.test('a type with a cast to json does not run code as another role in a watched table', async (t) => {
  const dbUri = await installed()
  const attacker = await role(dbUri, 'pgws_publisher')
  await query(dbUri, `create schema evil authorization ${attacker.name}`)
  const { client, victims } = await attack(t, dbUri, attacker)
  const { fastify } = await build(t, { dbUri })
  const heard: { operation: string; record: unknown; old_record: unknown }[] = []
  fastify.pgws.subscribe('c', (text) => heard.push(JSON.parse(text).payload))
  await client.query(`
    create type evil.mood as enum ('good', 'it''s {bad}');
    create function evil.to_json(evil.mood) returns json language plpgsql as $$
      begin insert into public.trapped values (current_user); return '"trapped"'; end $$;
    create cast (evil.mood as json) with function evil.to_json(evil.mood);
    create type evil.pair as (a int, b evil.mood);
    create domain evil.tame as evil.mood;
    create type evil.plain as (a int, b text);
    create table evil.watched (id int, "the ""mood" evil.mood, moods evil.mood[], pair evil.pair, tame evil.tame,
      plain evil.plain, gone int, list int[]);
    alter table evil.watched drop column gone;
    select pgws.watch('evil.watched', 'c');
    insert into evil.watched values
      (1, 'it''s {bad}', '{good,null}', (1, 'good'), 'good', (1, 'x'), '{1,2}'), (2, null, null, null, null, null, null);
    delete from evil.watched where id = 1`)
  await until(() => heard.length === 3)
  const record = {
    id: 1,
    'the "mood': "it's {bad}",
    moods: ['good', null],
    pair: '(1,good)',
    tame: 'good',
    plain: { a: 1, b: 'x' },
    list: [1, 2]
  }
  t.same(heard[0]!.record, record)
  t.same(heard[1]!.record, {
    id: 2,
    'the "mood': null,
    moods: null,
    pair: null,
    tame: null,
    plain: null,
    list: null
  })
  t.same(heard[2]!.old_record, record)
  t.same(await victims(), [])
})

t.test('functions and operators that a role creates in public do not run as another role', async (t) => {
  const dbUri = await installed()
  // As in PostgreSQL 13 and 14.
  await query(dbUri, 'grant create on schema public to public')
  await query(dbUri, `select pgws.retain('kept:*', '1 hour')`)
  const { client, victims } = await attack(t, dbUri, await role(dbUri))
  await client.query(`set search_path = pg_catalog; ${DECOYS}; reset search_path`)
  await client.query(
    `select * from unnest(array['x'::text]); select array['x'::text] || 'x'::text, array[1::bigint] @> array[1::bigint]`
  )
  const { rows } = await query(dbUri, 'select count(*)::int as trapped from public.trapped')
  t.ok(rows[0].trapped >= 3, 'the decoys work')

  const server = await role(dbUri, 'pgws_server')
  await query(
    dbUri,
    `create schema app;
    create function app.heard(message jsonb) returns jsonb language sql as $$ select message $$;
    create function app.came(claims jsonb, channels text[], connection text) returns void language sql as '';
    create function app.went(claims jsonb, channels text[], connection text, reason text) returns void language sql as '';
    create function app.may(channel text, mode text, claims jsonb) returns boolean language sql as 'select true';
    grant usage on schema app to public`
  )
  for (const functions of [
    {},
    {
      onMessageFunction: 'app.heard',
      onConnectFunction: 'app.came',
      onDisconnectFunction: 'app.went',
      authorizeFunction: 'app.may'
    }
  ]) {
    const { ws, http } = await build(t, {
      dbUri: server.uri,
      presenceChannels: 'room',
      rawChannels: 'raw',
      ...functions
    })
    const reader = await open(t, `${ws}/${token({ mode: 'rw', channels: ['kept:1', 'plain', 'raw'] })}`)
    const headers = {
      authorization: `Bearer ${token({ mode: 'rw', admin: true })}`,
      'content-type': 'application/json',
      'idempotency-key': `k${Object.keys(functions).length}`
    }
    const body = JSON.stringify([
      { channels: ['kept:1', 'plain', 'raw'], payload: 'one' },
      { channel: 'kept:1', payload: 'x'.repeat(9000) },
      { channel: 'plain', payload: 'x'.repeat(9000) }
    ])
    const answer = await fetch(`${http}/publish?confirm=true`, { method: 'POST', headers, body })
    t.equal(answer.status, 200, await answer.text())
    await reader.received(5)
    reader.send('two')
    await reader.received(8)
    const since = JSON.parse(reader.messages.find((text) => text.includes('"id"'))!).id
    await (await open(t, `${ws}/kept%3A1/${token({ mode: 'r' })}?since=${since}`)).received(2)
    for (const path of ['/channels/kept%3A1/history', '/nodes', '/connections?scope=cluster', '/health']) {
      t.equal((await fetch(http + path, { headers })).status, 200, path)
    }
    reader.webSocket.close()
  }
  const cleaner = new pg.Client(server.uri)
  await cleaner.connect()
  await cleaner.query('select pgws.clean()')
  await cleaner.end()
  const owner = new pg.Client(dbUri)
  await owner.connect()
  await migrate(owner, 'another')
  await owner.query(`create table public.plain_table (a int, b text[]); select pgws.watch('public.plain_table', 'plain');
    insert into public.plain_table values (1, '{x}')`)
  await owner.end()
  t.same(await victims(), [])
})

/** Every operator, and every function with a polymorphic argument (anyarray and so on), for more specific types. */
const DECOYS = `
  do $do$
  declare
    types constant text[] := '{text,bigint,integer,double precision,numeric,text[],bigint[],jsonb,json,boolean,interval,timestamptz,name,oid,bytea,varchar}';
    body constant text := 'language plpgsql as $$ begin insert into public.trapped values (current_user); return null; end $$';
    one record;
    l text;
    r text;
  begin
    for one in
      select distinct p.proname, p.pronargs from pg_catalog.pg_proc p
      where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind = 'f' and p.pronargs between 1 and 2
        and p.proargtypes::oid[] && '{anyarray,anyelement,anycompatible,anycompatiblearray,anynonarray,"\\"any\\""}'::regtype[]::oid[]
    loop
      foreach l in array types loop
        foreach r in array case one.pronargs when 1 then array[''] else types end loop
          begin
            execute format('create function public.%I(%s) returns %s %s', one.proname,
              concat_ws(', ', l, nullif(r, '')), case when one.proname = 'unnest' then 'setof text' else 'text' end,
              case when one.proname = 'unnest' then replace(body, 'return null', 'return next null') else body end);
          exception when others then null;
          end;
        end loop;
      end loop;
    end loop;
    foreach l in array types loop
      foreach r in array types loop
        execute format('create function public.decide(%s, %s) returns boolean %s', l, r, body);
        execute format('create function public.make(%s, %s) returns text %s', l, r, body);
        for one in select unnest('{=,<>,<,>,<=,>=,&&,@>,<@,~,?}'::text[]) as name, 'decide' as f
          union all select unnest('{||,-,+,*,->,->>,#>}'::text[]), 'make'
        loop
          continue when exists (
            select from pg_catalog.pg_operator o where o.oprnamespace = 'pg_catalog'::regnamespace and o.oprname = one.name
              and o.oprleft = l::regtype and o.oprright = r::regtype
          );
          execute format('create operator public.%s (function = public.%I, leftarg = %s, rightarg = %s)', one.name, one.f, l, r);
        end loop;
      end loop;
    end loop;
  end $do$`
