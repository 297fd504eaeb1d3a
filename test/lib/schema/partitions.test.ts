import t from 'tap'
import { build, open, query, token, withPostgres } from '../../support/helper.js'
import { partitioned } from '../../support/partitioned.js'

const { postgres, database, migrated } = await withPostgres(t)

t.test('change events of a partitioned table contain its name and the name of the partition', async (t) => {
  const dbUri = await database()
  const { ws } = await build(t, { dbUri, migrate: true })
  await query(
    dbUri,
    `create schema shop; create table shop.parts (id int, region text) partition by list (region);
     create table shop.north partition of shop.parts for values in ('n');
     select pgws.watch('shop.parts', 'parts', '{INSERT,UPDATE,DELETE,TRUNCATE}');
     create table shop.later partition of shop.parts for values in ('l') partition by range (id);
     create table shop.deep (region text, id int);
     alter table shop.later attach partition shop.deep default`
  )
  const client = await open(t, `${ws}/parts/${token({ mode: 'r' })}`)
  await query(
    dbUri,
    `insert into shop.parts values (1, 'n'), (2, 'l'); insert into shop.deep values ('l', 3)`
  )
  await query(dbUri, 'update shop.parts set id = 4 where id = 3; delete from shop.deep; truncate shop.parts')
  await client.received(7)
  t.strictSame(
    client.messages.map((text) => JSON.parse(text).payload),
    [
      { operation: 'INSERT', partition: 'north', record: { id: 1, region: 'n' }, old_record: null },
      { operation: 'INSERT', partition: 'deep', record: { id: 2, region: 'l' }, old_record: null },
      { operation: 'INSERT', partition: 'deep', record: { id: 3, region: 'l' }, old_record: null },
      {
        operation: 'UPDATE',
        partition: 'deep',
        record: { id: 4, region: 'l' },
        old_record: { id: 3, region: 'l' }
      },
      { operation: 'DELETE', partition: 'deep', record: null, old_record: { id: 2, region: 'l' } },
      { operation: 'DELETE', partition: 'deep', record: null, old_record: { id: 4, region: 'l' } },
      { operation: 'TRUNCATE', partition: null, record: null, old_record: null }
    ].map(({ operation, ...rest }) => ({ operation, schema: 'shop', table: 'parts', ...rest }))
  )
})

t.test('writing to a watched partitioned table needs no rights on pgws', async (t) => {
  const { changesBy } = await partitioned(t, await migrated())
  const writer = `writer_${postgres.uri.length}`
  t.same(
    await changesBy(
      `create role ${writer}`,
      `grant select, insert, update on parts to ${writer}`,
      `set role ${writer}`,
      `insert into parts values (1, 'n', 'a')`,
      `update parts set note = 'b'`,
      `update parts set region = 's'`
    ),
    [
      'parts INSERT parts.north null -> 1an',
      'parts UPDATE parts.north 1an -> 1bn',
      'parts UPDATE parts.south 1bn -> 1bs'
    ]
  )
})

t.test('ending the last watch leaves nothing at the table', async (t) => {
  const { changesBy, dbUri } = await partitioned(t, await migrated())
  const triggers = async () =>
    (await query(dbUri, `select from pg_trigger where tgname like 'pgws%'`)).rowCount
  await query(dbUri, `select pgws.watch('parts', 'other'); select pgws.unwatch('parts', 'parts')`)
  await changesBy(`insert into parts values (1, 'n', 'a')`)
  t.same(await changesBy(`update parts set note = 'b'`), ['other UPDATE parts.north 1an -> 1bn'])
  await query(dbUri, `select pgws.unwatch('north'); select pgws.unwatch('parts', 'other')`)
  t.equal(await triggers(), 0)
  await query(
    dbUri,
    `select pgws.watch('parts', 'a'); select pgws.watch('parts', 'b'); select pgws.unwatch('parts')`
  )
  t.equal(await triggers(), 0)
})

t.test('a table that cannot be watched is an error that says what to watch instead', async (t) => {
  const { dbUri } = await partitioned(
    t,
    await migrated(),
    `create extension if not exists plpgsql; create foreign data wrapper none; create server elsewhere foreign data wrapper none;
     create foreign table remote (id int) server elsewhere; create view seen as select 1 as id;
     create materialized view kept as select 1 as id; create sequence numbers;
     create table ancestor (id int); create table heir () inherits (ancestor);
     select pgws.watch('parts', 'parts')`
  )
  const watch = (name: string, channel = 'x', events = '{INSERT}') =>
    query(dbUri, 'select pgws.watch($1, $2, $3)', [name, channel, events])
  for (const [name, message, hint] of [
    [
      'remote',
      'public.remote is a foreign table, expected a table',
      /on another server: watch the table there/
    ],
    ['seen', 'public.seen is a view, expected a table', /Watch the tables that it reads/],
    ['kept', 'public.kept is a materialized view, expected a table', /Watch the tables that it reads/],
    ['numbers', 'public.numbers is something else, expected a table', /Tables and partitioned tables/],
    [
      'ancestor',
      'public.ancestor has tables that inherit from it: public.heir',
      /do not inherit its triggers/
    ]
  ] as const) {
    await t.rejects(watch(name), { code: '42809', message: `pgws.watch: ${message}`, hint })
  }
  await t.rejects(watch('north', 'parts'), {
    code: '42710',
    message: 'pgws.watch: public.north is a partition, and its parent is watched with the channel parts'
  })
  await t.rejects(watch('parts', 'x', '{}'), { message: /expected at least one event/ })
  await watch('heir')
})

t.test('a watch on a partitioned table from an older version continues to work as before', async (t) => {
  const { changesBy, dbUri } = await partitioned(
    t,
    await migrated(),
    `create trigger pgws_insert_old after insert on parts for each row execute function pgws.tell('old', 'null')`
  )
  t.same(await changesBy(`insert into parts values (1, 'n', 'a')`), [
    'old INSERT north.undefined null -> 1an'
  ])
  await query(dbUri, `select pgws.unwatch('parts'); select pgws.watch('parts', 'old')`)
  t.same(await changesBy(`delete from parts`), ['old DELETE parts.north 1an -> null'])
})
