import pg from 'pg'
import t from 'tap'
import { readMigrations } from '../../../lib/schema/migrations.js'
import { install, LISTEN_CHANNEL, query, withPostgres } from '../../support/helper.js'
import { changeListener, PARTS, partitioned } from '../../support/partitioned.js'
import { majorVersion } from '../../support/postgres.js'

const { postgres, database, migrated } = await withPostgres(t)

t.test('a row that moves to another partition is one UPDATE', async (t) => {
  const { changesBy } = await partitioned(t, await migrated())
  t.same(await changesBy(`insert into parts values (1, 'n', 'a'), (2, 'n', 'b'), (3, 's', 'c')`), [
    'parts INSERT parts.north null -> 1an',
    'parts INSERT parts.north null -> 2bn',
    'parts INSERT parts.south null -> 3cs'
  ])
  t.same(
    await changesBy(
      `update parts set region = case region when 'n' then 's' else 'n' end, note = note || '!'`
    ),
    [
      'parts UPDATE parts.south 1an -> 1a!s',
      'parts UPDATE parts.south 2bn -> 2b!s',
      'parts UPDATE parts.north 3cs -> 3c!n'
    ]
  )
  // There and back in one transaction, with changes that are rolled back, and real inserts and deletes.
  t.same(
    await changesBy(
      'begin',
      `update parts set region = 'n' where id = 1`,
      'savepoint undone',
      `update parts set region = 's'`,
      'rollback to undone',
      `insert into parts values (4, 's', 'd')`,
      `update parts set region = 's' where id = 1`,
      'delete from parts where id = 1',
      'commit'
    ),
    [
      'parts UPDATE parts.north 1a!s -> 1a!n',
      'parts INSERT parts.south null -> 4ds',
      'parts UPDATE parts.south 1a!n -> 1a!s',
      'parts DELETE parts.south 1a!s -> null'
    ]
  )
  t.same(
    await changesBy(
      'begin',
      'set constraints all immediate',
      `update parts set region = 's' where id = 3`,
      'commit'
    ),
    ['parts UPDATE parts.south 3c!n -> 3c!s']
  )
})

t.test('rows that one statement deletes and inserts are not moves', async (t) => {
  const { changesBy } = await partitioned(t, await migrated())
  await changesBy(`insert into parts values (1, 'n', 'a')`)
  t.same(
    (
      await changesBy(`with gone as (delete from parts where id = 1 returning *)
        insert into parts select 9, 's', note from gone`)
    ).sort(),
    ['parts DELETE parts.north 1an -> null', 'parts INSERT parts.south null -> 9as']
  )
})

// PostgreSQL 15 introduced MERGE.
const merges = (await majorVersion(postgres)) >= 15
t.test('rows that a MERGE deletes and inserts are not moves', { skip: !merges }, async (t) => {
  const { changesBy } = await partitioned(t, await migrated())
  await changesBy(`insert into parts values (2, 'n', 'b'), (3, 'n', 'c')`)
  t.same(
    (
      await changesBy(`merge into parts p using (values (2, 'gone'), (3, 's'), (7, 's')) v (id, region) on p.id = v.id
        when matched and v.region = 'gone' then delete
        when matched then update set region = v.region
        when not matched then insert values (v.id, v.region, 'm')`)
    ).sort(),
    [
      'parts DELETE parts.north 2bn -> null',
      'parts INSERT parts.south null -> 7ms',
      'parts UPDATE parts.south 3cn -> 3cs'
    ]
  )
})

t.test('publishes a move as the watch defines for an UPDATE', async (t) => {
  const { changesBy } = await partitioned(
    t,
    await migrated(),
    `select pgws.watch('parts', 'updates:{region}', '{UPDATE}', '{id,region}');
     select pgws.watch('parts', 'others', '{INSERT,DELETE}');
     select pgws.watch('parts', 'kept', '{UPDATE}', null, 'record.note is not distinct from old.note');
     select pgws.watch('parts', 'some', '{INSERT,UPDATE,DELETE}', null, 'record.note = ''yes''')`
  )
  t.same(await changesBy(`insert into parts values (1, 'n', 'no')`), [
    'others INSERT parts.north null -> 1non'
  ])
  t.same(await changesBy(`update parts set region = 's', note = 'yes'`), [
    'some UPDATE parts.south 1non -> 1yess',
    'updates:s UPDATE parts.south 1n -> 1s',
    'updates:n UPDATE parts.south 1n -> 1s'
  ])
  t.same(await changesBy(`update parts set region = 'n', note = 'no'`), [
    'updates:n UPDATE parts.north 1s -> 1n',
    'updates:s UPDATE parts.north 1s -> 1n'
  ])
  // A condition on the old row applies only to rows that stay in their partition.
  t.same(await changesBy(`update parts set id = 2`), [
    'kept UPDATE parts.north 1non -> 2non',
    'updates:n UPDATE parts.north 1n -> 2n'
  ])
})

t.test('a row that leaves the watched table, or that a trigger drops, is a DELETE', async (t) => {
  const { changesBy, dbUri } = await partitioned(
    t,
    await migrated(),
    `create table all_parts (id int, region text, note text, year int) partition by list (year);
     create table parts_1 partition of all_parts for values in (1) partition by list (region);
     create table parts_1n partition of parts_1 for values in ('n');
     create table parts_1s partition of parts_1 for values in ('s');
     create table parts_2 partition of all_parts for values in (2);
     select pgws.watch('parts_1', 'one'); select pgws.watch('all_parts', 'all'); select pgws.watch('parts_1n', 'leaf')`
  )
  await changesBy(`insert into all_parts values (1, 'n', 'a', 1), (2, 'n', 'b', 1)`)
  t.same(await changesBy(`update all_parts set region = 's' where id = 1`), [
    'leaf DELETE parts_1n.undefined 1a1n -> null',
    'one DELETE parts_1.parts_1n 1a1n -> null',
    'all UPDATE all_parts.parts_1s 1a1n -> 1a1s',
    'one INSERT parts_1.parts_1s null -> 1a1s'
  ])
  t.same(await changesBy('update all_parts set year = 2 where id = 1'), [
    'one DELETE parts_1.parts_1s 1a1s -> null',
    'all UPDATE all_parts.parts_2 1a1s -> 1a2s'
  ])
  t.same(await changesBy('update all_parts set year = 1 where id = 1'), [
    'all UPDATE all_parts.parts_1s 1a2s -> 1a1s',
    'one INSERT parts_1.parts_1s null -> 1a1s'
  ])
  await query(
    dbUri,
    `create function drop_row() returns trigger language plpgsql as 'begin return null; end';
     create trigger dropping before insert on parts_2 for each row execute function drop_row()`
  )
  t.same(
    await changesBy(
      'begin',
      'update all_parts set year = 2 where id = 1',
      `insert into all_parts values (3, 'n', 'c', 1)`,
      'commit'
    ),
    [
      'one DELETE parts_1.parts_1s 1a1s -> null',
      // Before the rows that are inserted later.
      'all DELETE all_parts.parts_1s 1a1s -> null',
      'all INSERT all_parts.parts_1n null -> 3c1n',
      'leaf INSERT parts_1n.undefined null -> 3c1n',
      'one INSERT parts_1.parts_1n null -> 3c1n'
    ]
  )
  t.same((await query(dbUri, 'select from pgws.moves')).rowCount, 0)
})

t.test("the application's triggers do not separate the two halves of a move", async (t) => {
  const { changesBy, dbUri } = await partitioned(t, await migrated())
  await changesBy(`insert into parts values (1, 'n', 'a'), (2, 'n', 'b')`)
  await query(
    dbUri,
    `create function react() returns trigger language plpgsql as $$ begin
       if old.id = 1 then
         insert into public.parts values (5, 's', 'new');
         update public.parts set region = 's' where id = 2;
       end if;
       return null; end $$;
     create trigger react after delete on parts for each row execute function react();
     create trigger z_react after delete on parts for each row execute function react()`
  )
  t.same(
    (await changesBy(`update parts set region = 's' where id = 1`)).filter((text) => !text.includes('5news')),
    [
      'parts UPDATE parts.south 2bn -> 2bs',
      'parts UPDATE parts.south 2bs -> 2bs',
      'parts UPDATE parts.south 1an -> 1as'
    ]
  )
})

t.test('a BEFORE UPDATE trigger that updates other rows does not hide a move', async (t) => {
  const { changesBy, dbUri } = await partitioned(t, await migrated())
  await changesBy(`insert into parts values (1, 'n', 'a'), (2, 'n', 'first'), (3, 's', 'c')`)
  await query(
    dbUri,
    `create function only_first() returns trigger language plpgsql as $$ begin
       if new.note = 'first' then
         update public.parts set note = '', region = 's' where note = 'first' and id <> new.id;
       end if;
       return new; end $$;
     create trigger z_only_first before update on parts for each row execute function only_first()`
  )
  t.same(await changesBy(`update parts set region = 's', note = 'first' where id = 1`), [
    'parts UPDATE parts.south 2firstn -> 2s',
    'parts UPDATE parts.south 1an -> 1firsts'
  ])
})

t.test('rows that a foreign key moves are UPDATEs, and rows that it deletes are DELETEs', async (t) => {
  const { changesBy } = await partitioned(
    t,
    await migrated(),
    `create table regions (name text primary key);
     alter table parts add foreign key (region) references regions on update cascade on delete cascade;
     select pgws.watch('parts', 'parts')`
  )
  await changesBy(`insert into regions values ('n')`, `insert into parts values (1, 'n', 'a'), (2, 'n', 'b')`)
  t.same(await changesBy(`update regions set name = 's'`), [
    'parts UPDATE parts.south 1an -> 1as',
    'parts UPDATE parts.south 2bn -> 2bs'
  ])
  t.same(await changesBy('delete from regions'), [
    'parts DELETE parts.south 1as -> null',
    'parts DELETE parts.south 2bs -> null'
  ])
})

t.test('recognizes moves to partitions that were attached later, and none from detached ones', async (t) => {
  const { changesBy } = await partitioned(t, await migrated())
  await changesBy(
    'create table others (region text, id int, note text) partition by range (id)',
    'create table few (note text, region text, id int)',
    'alter table others attach partition few default',
    'alter table parts attach partition others default',
    `insert into parts values (1, 'n', 'a')`
  )
  t.same(await changesBy(`update parts set region = 'x'`), ['parts UPDATE parts.few 1an -> 1ax'])
  t.same(await changesBy(`update others set region = 'y'`), ['parts UPDATE parts.few 1ax -> 1ay'])
  t.same(
    await changesBy('alter table parts detach partition others', 'delete from others', 'select 1 from parts'),
    []
  )
})

t.test('a DELETE of a row is a DELETE, although a trigger has dropped its UPDATE before', async (t) => {
  const { changesBy } = await partitioned(
    t,
    await migrated(),
    `create function drop_row() returns trigger language plpgsql as 'begin return null; end';
     create trigger z_dropping before update on parts for each row when (new.note = 'dropped') execute function drop_row();
     select pgws.watch('parts', 'parts')`
  )
  await changesBy(`insert into parts values (1, 'n', 'a'), (2, 'n', 'b'), (3, 'n', 'c')`)
  t.same(
    await changesBy(
      'begin',
      `update parts set note = 'dropped', region = 's' where id = 1`,
      'delete from parts where id = 1',
      `insert into parts values (1, 's', 'new')`,
      'set constraints all immediate',
      `update parts set note = 'dropped', region = 's' where id = 2`,
      'delete from parts where id = 2',
      'delete from parts where id = 3',
      'commit'
    ),
    [
      'parts DELETE parts.north 1an -> null',
      'parts INSERT parts.south null -> 1news',
      'parts DELETE parts.north 3cn -> null',
      'parts DELETE parts.north 2bn -> null'
    ]
  )
})

t.test('concurrent serializable transactions that move rows do not conflict', async (t) => {
  const { changesBy, dbUri } = await partitioned(
    t,
    await migrated(),
    `create unique index on parts (id, region); select pgws.watch('parts', 'parts')`
  )
  await changesBy(`insert into parts select n, 'n', '' from generate_series(1, 1000) n`)
  const clients = [1, 2].map(() => new pg.Client(dbUri))
  t.teardown(() => Promise.all(clients.map((client) => client.end())))
  for (const client of clients) {
    await client.connect()
    // Each reads only its own row.
    await client.query('set enable_seqscan = off; begin isolation level serializable')
  }
  for (const [n, client] of clients.entries()) {
    await client.query(`update parts set region = 's' where region = 'n' and id = $1`, [n * 900 + 50])
  }
  for (const client of clients) await client.query('commit')
  t.same((await query(dbUri, `select id from parts where region = 's' order by id`)).rows, [
    { id: 50 },
    { id: 950 }
  ])
})

t.test('the migration makes older watches recognize moves', async (t) => {
  const dbUri = await database()
  for (const { sql } of readMigrations().slice(0, 9)) await query(dbUri, sql)
  await query(dbUri, 'insert into pgws.settings (version, listen_channel) values (2, $1)', [LISTEN_CHANNEL])
  for (const { number, name, oldestServer } of readMigrations().slice(2, 9)) {
    await query(dbUri, 'insert into pgws.migrations (number, name, oldest_server) values ($1, $2, $3)', [
      number,
      name,
      oldestServer
    ])
  }
  await query(
    dbUri,
    `${PARTS} select pgws.watch('parts', 'parts'); select pgws.watch('parts', 'others', '{INSERT,DELETE}')`
  )
  await install(dbUri)
  const changesBy = await changeListener(t, dbUri)
  await changesBy(`insert into parts values (1, 'n', 'a')`)
  t.same(await changesBy(`update parts set region = 's'`), ['parts UPDATE parts.south 1an -> 1as'])
})

t.test('many rows that move are as many UPDATEs, in order', async (t) => {
  const { changesBy } = await partitioned(t, await migrated())
  await changesBy(`insert into parts select n, 'n', '' from generate_series(1, 5000) n`)
  t.same(
    await changesBy(
      `update parts set region = 's'`,
      // Each was found by its place, so the time for a row does not grow with the number of rows.
      `do $$ begin
         assert (select n_tup_ins = 5000 and seq_scan = 0 from pg_stat_xact_user_tables
           where relid = 'pgws.moves'::regclass), 'a search';
         assert (select count(*) = 0 from pgws.moves), 'leftovers';
       end $$`
    ),
    Array.from({ length: 5000 }, (_, i) => `parts UPDATE parts.south ${i + 1}n -> ${i + 1}s`)
  )
})
