import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import { COMMAND, EMULATION_REQUEST } from '../../../../lib/protocols/centrifugo/wire/client-schema.js'
import { encodeDelimited, encodeMessage } from '../../../../lib/protocols/centrifugo/wire/protobuf-fields.js'
import { build, open, token, until, withPostgres } from '../../../support/helper.js'
import { PROTOBUF_SDK, sdk, subscribed } from '../../../support/sdk.js'
import { streaming } from '../../../support/streams.js'

const { database, migrated } = await withPostgres(t)
const dbUri = await database()
const server = await build(t, { dbUri })

const rw = (claims: object = {}) => token({ mode: 'rw', sub: 'me', ...claims })
const connect = encodeDelimited(COMMAND, { id: 1, connect: { token: rw() } })
const text = (data: unknown) => Buffer.from(data as Uint8Array).toString()

t.test('delivers bytes that are not JSON unchanged, in durable and other channels', async (t) => {
  const dbUri = await migrated('kept')
  const { ws, fastify } = await build(t, { dbUri })
  const payload = Buffer.from([0, 0xff, 0xfe, 0x7b, 0x22, 0x0a, 0xc3, 0x28])
  const client = sdk(t, ws, { token: rw() }, PROTOBUF_SDK)
  const json = sdk(t, ws, { token: rw({ sub: 'other' }) })
  client.connect()
  json.connect()
  for (const channel of ['kept', 'plain']) {
    const mine = subscribed(client, channel)
    const theirs = subscribed(json, channel)
    const socket = await open(t, `${ws}/${channel}/${rw({ sub: 'raw' })}?binary=true`)
    await Promise.all([mine.subscription.ready(30_000), theirs.subscription.ready(30_000)])
    await client.publish(channel, payload)
    await client.publish(channel, Buffer.from('plain text'))
    await until(() => mine.got.length === 2 && theirs.got.length === 2)
    t.same(Buffer.from(mine.got[0]!.data as Uint8Array), payload, channel)
    t.equal(text(mine.got[1]!.data), 'plain text', channel)
    t.same(mine.got[0]!.tags, { event: 'Bytes' }, channel)
    // In JSON they are base64.
    t.match(theirs.got[0], {
      data: payload.toString('base64'),
      tags: { event: 'Bytes', encoding: 'base64' }
    })
    const binary = new Promise<Buffer>((resolve) => socket.webSocket.once('message', resolve))
    await client.publish(channel, payload)
    t.same(await binary, payload, channel)
  }
  // Messages of a raw websocket, and stored ones.
  const socket = await open(t, `${ws}/kept/${rw({ sub: 'raw' })}?binary=true`)
  socket.webSocket.send(payload)
  await until(async () => (await client.history('kept', { limit: 10 })).publications.length === 4)
  const { publications } = await client.history('kept', { limit: 10 })
  for (const n of [0, 2, 3]) t.same(Buffer.from(publications[n]!.data), payload)
  t.ok(fastify.pgws.listenerState.up)
})

t.test('delivers JSON as its text, byte for byte', async (t) => {
  const { ws } = await build(t, { dbUri })
  const client = sdk(t, ws, { token: rw() }, PROTOBUF_SDK)
  const { subscription, got } = subscribed(client, 'text')
  const socket = await open(t, `${ws}/text/${rw({ sub: 'raw' })}`)
  client.connect()
  await subscription.ready(30_000)
  const texts = ['{"n":  1.50,\n "n":2}', '"ü😀\\u00e9"', '0', 'null', '[]', '12345678901234567890.10']
  for (const one of texts) await client.publish('text', Buffer.from(one))
  await until(() => got.length === texts.length)
  t.same(
    got.map(({ data }) => text(data)),
    texts
  )
  t.match(JSON.parse((await socket.received(1))[0]!), { event: 'WebsocketMessage', payload: { n: 2 } })
  t.match(got[0], { tags: { event: 'WebsocketMessage' }, info: { user: 'me' } })
  const { connInfo } = got[0]!.info as { connInfo: Uint8Array }
  t.match(JSON.parse(text(connInfo)), { sub: 'me', mode: 'rw' })
  await t.rejects(client.publish('text', Buffer.from('"\\u0000"')), { code: 107 })
})

t.test('a raw channel carries text only', async (t) => {
  const { ws } = await build(t, { dbUri, rawChannels: 'raw:*' })
  const client = sdk(t, ws, { token: rw() }, PROTOBUF_SDK)
  const { subscription, got } = subscribed(client, 'raw:a')
  client.connect()
  await subscription.ready(30_000)
  await client.publish('raw:a', Buffer.from('not JSON'))
  await until(() => got.length === 1)
  t.equal(text(got[0]!.data), '"not JSON"')
  await t.rejects(client.publish('raw:a', Buffer.from([0xff])), { code: 107, message: /text only/ })
})

/** A websocket client in protobuf, without the SDK. */
async function speaking(t: Test, url: string, protocol: string | undefined = 'centrifuge-protobuf') {
  const webSocket = new WebSocket(url, protocol === '' ? [] : protocol)
  t.teardown(() => webSocket.terminate())
  const received: Buffer[] = []
  webSocket.on('message', (data, isBinary) => {
    if (!isBinary) t.fail('a text came')
    received.push(data as Buffer)
  })
  const closed = new Promise<{ code: number; reason: string }>((resolve) => {
    webSocket.on('close', (code, reason) => resolve({ code, reason: reason.toString() }))
  })
  await new Promise((resolve, reject) => webSocket.once('open', resolve).once('error', reject))
  return { webSocket, received, closed }
}

t.test('a client can request protobuf in three ways', async (t) => {
  const { ws } = await build(t, { dbUri })
  const address = `${ws}/connection/websocket`
  for (const [url, protocol] of [
    [address, undefined],
    [`${address}?format=protobuf`, ''],
    [`${address}?cf_protocol=protobuf&cf_protocol_version=v2`, '']
  ] as const) {
    const { webSocket, received } = await speaking(t, url, protocol)
    webSocket.send(Buffer.concat([connect, encodeDelimited(COMMAND, { id: 2, ping: {} })]))
    await until(() => received.length === 2)
    // Reply.id is field 1, Reply.ping field 12.
    t.same(received[1], Buffer.from([4, 1 << 3, 2, (12 << 3) | 2, 0]))
  }
})

t.test('server-sent events are text: a client that requests protobuf gets an error, and stops', async (t) => {
  const { http } = await build(t, { dbUri })
  const answer = await fetch(`${http}/connection/sse?format=protobuf`, { method: 'POST', body: connect })
  t.equal(answer.status, 200)
  t.match(Buffer.from(await answer.arrayBuffer()).toString(), /server-sent events have no protobuf/)
})

const field = (number: number, wireType: number, ...bytes: number[]) => {
  const tag = (number << 3) | wireType
  return Buffer.from([...(tag < 0x80 ? [tag] : [(tag & 0x7f) | 0x80, tag >> 7]), ...bytes])
}
/** Bytes prefixed with their length. */
const delimited = (...parts: Uint8Array[]) => {
  const all = Buffer.concat(parts)
  const head: number[] = []
  for (let rest = all.length; ; rest >>>= 7) {
    if (rest < 0x80) return Buffer.concat([Buffer.from([...head, rest]), all])
    head.push((rest & 0x7f) | 0x80)
  }
}
const id = field(1, 0, 2)

const malformed: [string, Buffer, RegExp][] = [
  ['a command that is cut off', connect.subarray(0, -1), /not complete/],
  ['a length of 4 GiB', Buffer.from([0xff, 0xff, 0xff, 0xff, 0x0f]), /not complete/],
  ['a length without end', Buffer.alloc(1000, 0xff), /length of a command is malformed/],
  ['a text', Buffer.from('{"id":1,"connect":{"token":"x"}}'), /not protobuf/],
  ['a field of 4 GiB', delimited(id, field(4, 2, 0xff, 0xff, 0xff, 0xff, 0x0f)), /not complete/],
  ['a token of 4 GiB', delimited(id, field(4, 2, 6), field(1, 2, 0xff, 0xff, 0xff, 0xff, 0x0f)), /EOF/],
  ['a token beyond its message', delimited(id, field(4, 2, 3), field(1, 2, 4, 1, 1, 1, 1)), /longer than/],
  ['a number in place of a message', delimited(id, field(4, 0, 1)), /wire type 0/],
  ['a message in place of a number', delimited(field(1, 2, 1, 1)), /wire type 2/],
  ['a wire type that there is not', delimited(id, field(30, 7)), /wire type 7/],
  ['the field 0', delimited(id, field(0, 0, 1)), /field no 0/],
  ['a tag without end', delimited(Buffer.alloc(20, 0xff)), /not protobuf/],
  ['a number without end', delimited(field(1, 0), Buffer.alloc(20, 0xff)), /varint/],
  ['groups in groups', delimited(id, ...Array<Buffer>(20_000).fill(field(30, 3))), /recursion/],
  ['the end of no group', delimited(id, field(30, 4)), /not protobuf/],
  ['a token that is not UTF-8', delimited(id, field(4, 2, 4), field(1, 2, 2, 0xc3, 0x28)), /not protobuf/],
  ['no method', delimited(id), /needs a method/],
  ['a method of a later protocol', delimited(id, field(40, 2, 0)), /needs a method/],
  ['no id', delimited(field(4, 2, 0)), /needs an id/]
]
for (const [name, bytes, reason] of malformed) {
  t.test(`${name}: the connection is closed with 3501`, async (t) => {
    const { webSocket, closed } = await speaking(t, `${server.ws}/connection/websocket`)
    webSocket.send(bytes)
    t.match(await closed, { code: 3501, reason })
  })
}
t.test('ignores fields and commands of later protocol versions', async (t) => {
  const { ws } = server
  const { webSocket, received } = await speaking(t, `${ws}/connection/websocket`)
  const request = encodeMessage(
    { token: [1, 'string'], name: [4, 'string'], headers: [6, 'bytes'], later: [99, 'uint64'] },
    { token: rw(), name: 'dart', headers: Buffer.from('\n\x01a\x12\x01b'), later: 2 ** 50 }
  )
  const group = Buffer.concat([field(50, 3), field(1, 0, 1), field(50, 4)])
  webSocket.send(delimited(group, id, field(51, 1, 1, 2, 3, 4, 5, 6, 7, 8), field(4, 2), delimited(request)))
  await until(() => received.length === 1)
  t.match(received[0]!.toString('latin1'), /fastify-pg-websockets/)
})

t.test('an HTTP stream takes commands in protobuf, too', async (t) => {
  const { http, lines } = server
  const client = streaming(t, 'http_stream', { http }, { token: rw() }, PROTOBUF_SDK)
  const { subscription, got } = subscribed(client, 'streamed')
  client.connect()
  await subscription.ready(30_000)
  await client.publish('streamed', Buffer.from([0xff, 0]))
  await until(() => got.length === 1)
  t.same([...(got[0]!.data as Uint8Array)], [0xff, 0])

  const post = (body: Buffer) =>
    fetch(`${http}/emulation`, {
      method: 'POST',
      headers: { 'content-type': 'application/octet-stream' },
      body
    })
  const request = { session: 'unknown', node: '0'.repeat(16), data: Buffer.from([0]) }
  t.equal((await post(encodeMessage(EMULATION_REQUEST, request))).status, 404)
  for (const [body, reason] of [
    [Buffer.from([0xff]), /EmulationRequest in protobuf/],
    [Buffer.from(JSON.stringify({ ...request, data: '{}' })), /protobuf/],
    [encodeMessage(EMULATION_REQUEST, { session: 'unknown', node: 'x' }), /strings .*session/],
    [Buffer.alloc(0), /strings .*session/]
  ] as const) {
    const answer = await post(body)
    t.equal(answer.status, 400)
    t.match(await answer.text(), reason)
  }
  t.notOk(lines.some((line) => line.includes('"level":50')))
})
