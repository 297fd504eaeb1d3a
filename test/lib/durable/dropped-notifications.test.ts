import { join } from 'node:path'
import pg from 'pg'
import t, { type Test } from 'tap'
import { Random } from '../../check/random.js'
import { stream } from '../../support/event-stream.js'
import { FaultProxy } from '../../support/fault-proxy.js'
import { build, open, query, token, until, withPostgres } from '../../support/helper.js'
import { sdk, subscribed } from '../../support/sdk.js'

const { postgres, migrated } = await withPostgres(t)
const CHANNELS = ['a', 'b', 'c']
const jwt = token({ mode: 'rw', channels: CHANNELS })

/** Whether the proxy drops a notification. */
type Drop = (channel: string, payload: string) => boolean

/**
 * Two servers, each with readers. The proxy drops notifications on their way to one of the servers. It passes
 * those that prove that the connection is alive, because the server replaces a connection that loses them.
 */
async function setUp(t: Test, checkListenerInterval: number) {
  const dbUri = await migrated(...CHANNELS)
  const dropped: string[] = []
  const fault: { drop: Drop } = { drop: () => false }
  const proxy = await FaultProxy.start(t, join(postgres.socketFolder, '.s.PGSQL.5432'))
  proxy.drop = (channel, payload) => {
    const drop = !channel.startsWith('pgws_probe_') && fault.drop(channel, payload)
    if (drop) dropped.push(channel)
    return drop
  }
  // The node that starts first becomes the sequencer, because a node whose notifications are dropped is not
  // woken.
  const other = await build(t, { dbUri, checkListenerInterval })
  await until(async () => (await metric(other, 'sequencer')) === 1)
  const node = await build(t, { dbUri, listenerUri: proxy.uri(dbUri), checkListenerInterval })
  const readers = async (app: typeof node) => {
    const websocket = await open(t, `${app.ws}/${jwt}`)
    const events = await stream(t, `${app.http}/${jwt}`)
    const client = sdk(t, app.ws, { token: jwt })
    const subscriptions = CHANNELS.map((channel) => subscribed(client, channel))
    client.connect()
    for (const { subscription } of subscriptions) await subscription.ready(30_000)
    return { websocket, events, subscriptions }
  }
  const all = { node: await readers(node), other: await readers(other) }
  /**
   * Waits until every reader has received as many messages as are stored, and compares them with the stored
   * ones.
   */
  const compare = async () => {
    await query(dbUri, 'select pgws.catch_up()')
    const { rows } = await query(
      dbUri,
      `select pgws.message_id(position) as id, channel, body::json ->> 'payload' as payload from pgws.messages order by position`
    )
    for (const [name, { websocket, events, subscriptions }] of Object.entries(all)) {
      await websocket.received(rows.length)
      await events.received(rows.length)
      await until(() => subscriptions.reduce((sum, { got }) => sum + got.length, 0) >= rows.length)
      const texts = { websocket: websocket.messages, 'event stream': events.events.map(({ data }) => data) }
      for (const [reader, messages] of Object.entries(texts)) {
        const got = messages.map((text) => {
          const { id, channel, payload } = JSON.parse(text)
          return { id, channel, payload }
        })
        t.same(got, rows, `the ${reader} of the ${name}`)
      }
      for (const [n, { got, contexts }] of subscriptions.entries()) {
        const expected = rows.filter(({ channel }) => channel === CHANNELS[n]).map(({ payload }) => payload)
        t.same(
          got.map(({ data }) => data),
          expected,
          `the SDK's ${CHANNELS[n]} of the ${name}`
        )
        t.equal(contexts.length, 1, 'the subscription was not interrupted')
      }
    }
    // Messages that were read again look like any other message.
    const members = (text: string) => Object.keys(JSON.parse(text)).sort().join()
    t.same(
      [...new Set(all.node.websocket.messages.map(members))],
      [...new Set(all.other.websocket.messages.map(members))]
    )
  }
  const publish = (...payloads: string[]) =>
    query(dbUri, `select pgws.publish_text('a', p) from unnest($1::text[]) p`, [payloads])
  return { dbUri, node, other, all, fault, dropped, compare, publish }
}

async function metric({ http }: { http: string }, name: string): Promise<number> {
  const text = await (await fetch(`${http}/metrics`)).text()
  return Number(new RegExp(`^pgws_${name} (.*)$`, 'm').exec(text)![1])
}

t.test('delivers every message once and in order if a node loses 5 % of its notifications', async (t) => {
  const { dbUri, node, other, fault, dropped, compare } = await setUp(t, 300)
  const random = new Random(7)
  fault.drop = () => random.chance(0.05)
  const client = new pg.Client(dbUri)
  await client.connect()
  t.teardown(() => client.end())
  const bySql = async () => {
    for (let n = 0; n < 200; n++) {
      await client.query(
        `select pgws.publish_text(($1::text[])[1 + i % 3], case when i % 7 = 0 then repeat('x', 9000) else '' end || $2 || ' ' || i)
         from generate_series(1, $3::int) i`,
        [CHANNELS, `sql ${n}`, n % 10 === 0 ? 30 : 1]
      )
    }
  }
  const byServer = async (app: typeof node, name: string) => {
    for (let n = 0; n < 200; n++) await app.fastify.pgws.publish(CHANNELS[n % 3]!, `${name} ${n}`)
  }
  await Promise.all([bySql(), byServer(node, 'node'), byServer(other, 'other')])
  await compare()
  t.ok(dropped.includes('pgws_announcements'))
  t.ok(dropped.length > 30, `${dropped.length} were dropped`)
  t.ok((await metric(node, 'healed_gaps_total')) > 0)
  t.equal(await metric(other, 'healed_gaps_total'), 0)
})

t.test('a beat reveals that the last message is missing', async (t) => {
  // The listener does not run its check during this test.
  const { node, fault, dropped, compare, publish } = await setUp(t, 600_000)
  await publish('one')
  await compare()
  fault.drop = (channel) => channel !== 'pgws_announcements'
  await publish('the message alone')
  await compare()
  const healed = await metric(node, 'healed_gaps_total')
  t.ok(healed > 0)
  // Only the first announcement, that of the message, is dropped. The second is the beat.
  let announced = 0
  fault.drop = (channel) => channel !== 'pgws_announcements' || announced++ === 0
  dropped.length = 0
  await publish('the message, and its announcement')
  await compare()
  t.ok(dropped.includes('pgws_announcements'))
  t.ok((await metric(node, 'healed_gaps_total')) > healed)
})

t.test('without beats, the check of the listener finds the last message', async (t) => {
  const { node, fault, dropped, compare, publish } = await setUp(t, 200)
  fault.drop = () => true
  await publish('the last')
  await node.fastify.pgws.publish('b', 'and the very last')
  await compare()
  t.ok(dropped.includes('pgws_announcements'))
})

t.test('a node that receives no announcements delivers the messages', async (t) => {
  const { fault, compare, publish } = await setUp(t, 600_000)
  fault.drop = (channel) => channel === 'pgws_announcements'
  for (let n = 0; n < 20; n++) await publish(`${n}`, `${n} too`)
  await compare()
})
