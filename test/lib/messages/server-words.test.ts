import t from 'tap'
import { build, type Client, notify, open, query, token, until, withPostgres } from '../../support/helper.js'
import { sdk, subscribed } from '../../support/sdk.js'

const { database, migrated } = await withPostgres(t)
const TOKEN = token({ mode: 'rw', sub: 'me' })

/** Texts that could be taken for the server's own events, also by readers that accept more than JSON. */
const IMITATIONS = [
  '{"pgws":true,"event":"HistoryGap","channel":"raw:a","payload":{"requested":null,"oldest":null,"latest":null}}',
  ' \n{ "event" : "Leave", "channel": "raw:a", "payload": {"client": "x"}, "\\u0070g\\u0077s": true }',
  '{"pgws":false,"pgws":true,"event":"HistoryGap","channel":"raw:a","payload":{}}',
  '\ufeff{"pgws":true,"event":"HistoryGap","channel":"raw:a","payload":{}}',
  '{"pgws":true,"event":"HistoryGap","channel":"raw:a","payload":{"x":NaN}}'
]

/** Messages that look like server events, and differ from them only in their type. */
const GAP =
  '{"event":"HistoryGap","channel":"raw:a","payload":{"requested":null,"oldest":null,"latest":null}}'

async function lost(metrics: { registry: { metrics(): Promise<string> } }, reason: string): Promise<number> {
  const match = new RegExp(`pgws_lost_messages_total\\{reason="${reason}"\\} (\\d+)`).exec(
    await metrics.registry.metrics()
  )
  return Number(match?.[1] ?? 0)
}

t.test('no payload of a raw channel is taken for a server event', async (t) => {
  const dbUri = await migrated('a')
  const { ws, http, fastify } = await build(t, { dbUri, rawChannels: 'raw:*' })
  const raw = await open(t, `${ws}/raw:a/${TOKEN}`)
  const client = sdk(t, ws, { token: TOKEN })
  const { subscription, got } = subscribed(client, 'raw:a')
  client.connect()
  await subscription.ready()
  let unsubscribed = 0
  subscription.on('subscribing', () => unsubscribed++).on('unsubscribed', () => unsubscribed++)
  for (const text of IMITATIONS) await notify(dbUri, text, 'raw:a')
  // Passes unchanged: raw readers know it by the missing member, an SDK by its type.
  await notify(dbUri, GAP, 'raw:a')
  // The envelope of a client's message that nobody has sent.
  const envelope = `{"event":"WebsocketMessage","channel":"raw:a","payload":"x","claims":{"sub":"the boss"}}`
  await notify(dbUri, envelope, 'raw:a')
  await notify(dbUri, 'a word on pgws, and {pgws}', 'raw:a')
  t.same(await raw.received(3), [GAP, envelope, 'a word on pgws, and {pgws}'])
  await until(() => got.length === 3)
  t.same(
    got.map(({ data, info }) => [data, info]),
    [GAP, envelope, 'a word on pgws, and {pgws}'].map((text) => [text, undefined])
  )
  t.equal(unsubscribed, 0)
  t.equal(await lost(fastify.pgws.metrics, 'reserved'), IMITATIONS.length)

  // The sender of such a text gets an error.
  for (const text of IMITATIONS.slice(0, 2)) {
    const sender = await open(t, `${ws}/raw:a/${TOKEN}`)
    const closed = sender.closed()
    sender.send(text)
    t.match(await closed, { code: 1007, reason: /"pgws"/ })
    const response = await fetch(`${http}/publish`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${TOKEN}` },
      body: `{"channel":"raw:a","payload":${text}}`
    })
    t.equal(response.status, 400)
    t.match(await response.json(), { message: /"pgws"/ })
    await t.rejects(subscription.publish(JSON.parse(text)), { code: 107, message: /"pgws"/ })
  }
  t.equal(raw.messages.length, 3)
})

t.test('no notification and no row is taken for a server event', async (t) => {
  const dbUri = await migrated('a')
  const { ws, fastify } = await build(t, { dbUri, presenceChannels: 'a' })
  const raw = await open(t, `${ws}/a/${TOKEN}`)
  const other = await open(t, `${ws}/postgres-websockets-listener/${TOKEN}`)
  const client = sdk(t, ws, { token: TOKEN })
  const { subscription, got } = subscribed(client, 'a')
  const events: string[] = []
  subscription.on('join', () => events.push('join')).on('leave', () => events.push('leave'))
  client.connect()
  await subscription.ready()
  for (const text of IMITATIONS) await notify(dbUri, text.replaceAll('raw:a', 'a'))
  const gap = GAP.replace('raw:a', 'a')
  await notify(dbUri, gap)
  await notify(dbUri, gap.replace('HistoryGap', 'Leave'))
  // The internal names of the hub are no channels either.
  await notify(dbUri, '{"channel":"\\u0000audience 0 default","payload":1}')
  await query(dbUri, `select pgws.publish('a', '{"pgws":true}', 'HistoryGap')`)
  await raw.received(3)
  await until(() => got.length === 3)
  t.same(raw.messages.slice(0, 2), [gap, gap.replace('HistoryGap', 'Leave')])
  t.notOk('pgws' in JSON.parse(raw.messages[2]!))
  t.match(got[2], { data: { pgws: true }, tags: { event: 'HistoryGap' } })
  t.same(events, [])
  t.same(other.messages, [])
  t.equal(await lost(fastify.pgws.metrics, 'reserved'), IMITATIONS.length)
  t.equal(await lost(fastify.pgws.metrics, 'malformed'), 1)
})

t.test('server events have the member pgws, on a websocket and an event stream', async (t) => {
  const dbUri = await migrated('a')
  const { ws, http } = await build(t, { dbUri, presenceChannels: 'a' })
  const words = (client: Client) => client.messages.map((text) => JSON.parse(text))
  const reader = await open(t, `${ws}/a/${TOKEN}?since=nonsense&presence=true`)
  await reader.received(1)
  const second = await open(t, `${ws}/a/${TOKEN}`)
  second.webSocket.close()
  await reader.received(4)
  t.same(
    words(reader).map(({ pgws, event }) => [pgws, event]),
    [
      [true, 'Presence'],
      [true, 'HistoryGap'],
      [true, 'Join'],
      [true, 'Leave']
    ]
  )
  const response = await fetch(`${http}/a/${TOKEN}?since=nonsense`, {
    headers: { accept: 'text/event-stream' }
  })
  const { value } = await response.body!.getReader().read()
  t.match(new TextDecoder().decode(value), /^data: \{"pgws":true,"event":"HistoryGap","channel":"a"/)
})

t.test('a raw channel cannot be one of those that are reserved for the server', async (t) => {
  const dbUri = await database()
  const endpoints = [{ path: '/ws', channels: ['other', 'news:all'] }]
  for (const rawChannels of ['**', ['a', 'news:*'], 'news:all']) {
    await t.rejects(build(t, { dbUri, endpoints, rawChannels }), {
      code: 'FST_PGWS_INVALID_OPTION',
      message: /"rawChannels" \(PGWS_RAW_CHANNELS\).*"(?:other|news:all)" of an endpoint/
    })
  }
  // The server's own channels are no raw channels, whatever the patterns are.
  const { ws } = await build(t, { dbUri, metaChannel: 'server-info', rawChannels: ['news', 'server*'] })
  const meta = await open(t, `${ws}/server-info/${TOKEN}`)
  meta.send('{"event":"ConnectionOpen","channel":"server-info","payload":"a"}')
  await meta.received(2)
  t.same(
    meta.messages.map((text) => JSON.parse(text).event),
    ['ConnectionOpen', 'WebsocketMessage']
  )
})

t.test('an SDK learns of missed messages from the type of the push', async (t) => {
  const dbUri = await migrated('a')
  const { ws } = await build(t, { dbUri })
  const client = sdk(t, ws, { token: TOKEN })
  const { subscription, contexts } = subscribed(client, 'a')
  client.connect()
  await subscription.ready()
  const again = new Promise((resolve) => subscription.once('subscribing', resolve))
  // The row is deleted before it can be read.
  await notify(dbUri, '{"pgws":"message","position":1000000,"channel":"a"}')
  t.match(await again, { code: 2500 })
  await until(() => contexts.length === 2)
})
