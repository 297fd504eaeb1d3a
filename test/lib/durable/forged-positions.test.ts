import { createHash } from 'node:crypto'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { messageId, parseMessageId } from '../../../lib/messages/notification-payload.js'
import { ANNOUNCEMENTS_CHANNEL } from '../../../lib/postgres/own-channels.js'
import { FaultProxy } from '../../support/fault-proxy.js'
import {
  build,
  LISTEN_CHANNEL,
  notify,
  open,
  query,
  sqlListener,
  token,
  until,
  withPostgres
} from '../../support/helper.js'

const { postgres, migrated } = await withPostgres(t)
const reader = token({ mode: 'r' })

/**
 * A reader of a durable channel, a listener that can be disconnected, and a role that has no rights except to
 * connect.
 */
async function setUp(t: Test, checkListenerInterval: number) {
  const dbUri = await migrated('durable')
  const { rows } = await query(dbUri, 'select current_database() as name')
  const stranger = `stranger_${rows[0].name.slice(-8)}`
  await query(dbUri, `create role ${stranger} login`)
  const strangerUri = dbUri.replace('postgres@', `${stranger}@`)
  const proxy = await FaultProxy.start(t, join(postgres.socketFolder, '.s.PGSQL.5432'))
  const pool = await FaultProxy.start(t, join(postgres.socketFolder, '.s.PGSQL.5432'))
  const { ws, fastify } = await build(t, {
    dbUri: pool.uri(dbUri),
    listenerUri: proxy.uri(dbUri),
    checkListenerInterval
  })
  const client = await open(t, `${ws}/durable/${reader}`)
  const publish = (...payloads: string[]) =>
    query(dbUri, `select pgws.publish_text('durable', p) from unnest($1::text[]) p`, [payloads])
  const got = () =>
    client.messages.map((text) => {
      const { pgws, event, payload } = JSON.parse(text)
      return pgws ? event : payload.slice(0, 20)
    })
  const lastId = () => parseMessageId(JSON.parse(client.messages.at(-1)!).id)!
  /** Notifies a message whose position is `ahead` of that of `from`. */
  const forge = async (from: { epoch: string; position: number }, ahead: number, payload: string) => {
    const id = messageId(from.epoch, from.position + ahead)
    const before = client.messages.length
    await notify(strangerUri, JSON.stringify({ id, event: 'forged', channel: 'durable', payload }))
    await client.received(before + 1)
  }
  const outage = async (meanwhile: () => Promise<unknown>) => {
    const { reconnects } = fastify.pgws.listenerState
    proxy.mode = 'refuse'
    proxy.cut()
    await until(() => !fastify.pgws.listenerState.up)
    await meanwhile()
    proxy.mode = 'pass'
    await until(() => fastify.pgws.listenerState.reconnects > reconnects)
  }
  /** Waits until the listener has proved `count` times that it is alive. */
  const proofs = async (count: number) => {
    for (let n = 0; n < count; n++) {
      const last = fastify.pgws.listenerState.lastProvenAlive
      await until(() => fastify.pgws.listenerState.lastProvenAlive !== last)
    }
  }
  return { dbUri, client, publish, got, lastId, forge, outage, proofs, pool, fastify }
}

// In the first case no check runs between the forgery and the outage. In the second case a check covers
// everything.
for (const [interval, proven] of [
  [60_000, 0],
  [100, 5]
] as const) {
  t.test(`a forged position hides no message from a replay (check every ${interval} ms)`, async (t) => {
    for (const ahead of [1, 5, 2 ** 40]) {
      const { client, publish, got, lastId, forge, outage, proofs } = await setUp(t, interval)
      await publish('one', 'x'.repeat(9000), 'two')
      await client.received(3)
      await forge(lastId(), ahead, 'forged')
      await proofs(proven)
      const missed = ['three', 'four', 'y'.repeat(9000), 'five', 'six', 'seven', 'eight']
      await outage(() => publish(...missed))
      await client.received(4 + missed.length)
      await publish('live')
      await client.received(5 + missed.length)
      const short = (text: string) => text.slice(0, 20)
      t.same(got(), ['one', 'x'.repeat(20), 'two', 'forged', ...missed.map(short), 'live'], `${ahead} ahead`)
      // By now everything is below the floor, or the replay has delivered it.
      await outage(() => publish('after another outage'))
      await client.received(6 + missed.length)
      t.same(got().slice(-2), ['live', 'after another outage'], `${ahead} ahead`)
    }
  })
}

t.test('a forged copy of a delivered message causes no second delivery by a replay', async (t) => {
  const { client, publish, got, lastId, forge, outage } = await setUp(t, 60_000)
  await publish('one')
  await client.received(1)
  const one = lastId()
  await forge(one, 1, 'forged before')
  await publish('two', 'three')
  await client.received(4)
  await forge(one, 0, 'forged after')
  await forge(one, 2, 'forged after')
  await outage(() => publish('four'))
  await client.received(7)
  await publish('five')
  await client.received(8)
  const sent = ['one', 'forged before', 'two', 'three', 'forged after', 'forged after', 'four', 'five']
  t.same(got(), sent)
})

t.test('reports no gap for deleted messages that were delivered', async (t) => {
  const { dbUri, client, publish, got, outage } = await setUp(t, 60_000)
  await publish('one', 'two', 'three')
  await client.received(3)
  await outage(async () => {
    await query(
      dbUri,
      `select pgws.catch_up(); update pgws.messages set expires_at = now() - interval '1 second'`
    )
    await query(dbUri, 'select pgws.clean()')
    await publish('four')
  })
  await client.received(4)
  await outage(async () => {
    await publish('missed')
    await query(
      dbUri,
      `select pgws.catch_up(); update pgws.messages set expires_at = now() - interval '1 second'`
    )
    await query(dbUri, 'select pgws.clean()')
    await publish('five')
  })
  await client.received(6)
  t.same(got().slice(0, 4), ['one', 'two', 'three', 'four'])
  t.same(got().slice(4), ['HistoryGap', 'five'])
})

t.test('delivers once the messages that wait for their rows during an outage', async (t) => {
  const { dbUri, client, publish, got, outage, pool, fastify } = await setUp(t, 100)
  await publish('one')
  await client.received(1)
  let heard = false
  await fastify.pgws.listen('marker', () => {
    heard = true
  })
  pool.mode = 'refuse'
  pool.cut()
  await publish('x'.repeat(9000), 'two', 'y'.repeat(9000))
  await notify(dbUri, '', 'marker')
  await until(() => heard)
  await outage(async () => {
    await publish('three')
    pool.mode = 'pass'
  })
  await client.received(5)
  await publish('four')
  await client.received(6)
  t.same(got(), ['one', 'x'.repeat(20), 'two', 'y'.repeat(20), 'three', 'four'])
})

t.test('ignores forged announcements, and forged messages delay nothing', async (t) => {
  const { dbUri, client, publish, got, lastId, forge, fastify, outage } = await setUp(t, 60_000)
  const stranger = await sqlListener(t, dbUri, ANNOUNCEMENTS_CHANNEL)
  const metric = async () => {
    const { body } = await fastify.inject('/metrics')
    return Number(/^pgws_healed_gaps_total (.*)$/m.exec(body)![1])
  }
  await publish('one', 'two')
  await client.received(2)
  await until(() => stranger.payloads.length > 0)
  const [true1] = stranger.payloads as [string]
  const words = true1.split(' ')
  const { position } = lastId()
  const signed = (previous: number, first: number, last: number) =>
    [words[0], previous, first, last, '-', LISTEN_CHANNEL].join(' ')
  const forged = [
    true1,
    signed(0, 1, 2 ** 50),
    signed(position, position + 1, position + 5),
    signed(position + 5, position + 6, position + 5),
    signed(position, position + 2, position + 1),
    [createHash('sha256').update(words.slice(1).join(' ')).digest('hex'), ...words.slice(1)].join(' '),
    `${words[0]} ${position} - - - x`,
    '{"previous":1}',
    ''
  ]
  for (const payload of forged) await notify(dbUri, payload, ANNOUNCEMENTS_CHANNEL)
  await publish('three')
  await client.received(3)
  t.equal(await metric(), 0)

  // Each of them claims a gap before it.
  const from = lastId()
  for (let n = 0; n < 20; n++) await forge(from, 2 ** 40 + n, 'forged')
  t.equal(await metric(), 0, 'the database answers that nothing is missing')
  const flood = Array.from({ length: 500 }, (_, n) => {
    const id = messageId(from.epoch, from.position + 1000 + n)
    return JSON.stringify({ id, event: 'forged', channel: 'durable', payload: 'flood' })
  })
  const flooding = query(dbUri, 'select pg_notify($1, p) from unnest($2::text[]) p', [LISTEN_CHANNEL, flood])
  for (let n = 0; n < 20; n++) await publish(`live ${n}`)
  await flooding
  await client.received(23 + flood.length + 20)
  await outage(() => publish('missed'))
  await client.received(24 + flood.length + 20)
  const live = Array.from({ length: 20 }, (_, n) => `live ${n}`)
  t.same(
    got().filter((payload) => payload !== 'forged' && payload !== 'flood'),
    ['one', 'two', 'three', ...live, 'missed']
  )
})
