import t from 'tap'
import { JsonText } from '../../../../lib/json-text.js'
import { historyGap, serverMessage } from '../../../../lib/messages/index.js'
import { COMMAND, type Fields } from '../../../../lib/protocols/centrifugo/wire/client-schema.js'
import { SDK_FORMATS, type SdkFrame } from '../../../../lib/protocols/centrifugo/wire/formats.js'
import {
  decodeMessage,
  delimitedIn,
  encodeDelimited
} from '../../../../lib/protocols/centrifugo/wire/protobuf-fields.js'
import { PONG } from '../../../../lib/protocols/centrifugo/wire/protocol.js'

const format = SDK_FORMATS.httpStream.protobuf
const channel = 'room:ü'

/** The fields of a reply that these tests read, by their numbers in client.proto. */
const INFO = { user: [1, 'string'], client: [2, 'string'], conn_info: [3, 'bytes'] } as const satisfies Fields
const TAGS = { map: { key: [1, 'string'], value: [2, 'string'] } } as const
const PUB = {
  data: [4, 'bytes'],
  info: [5, { message: INFO }],
  offset: [6, 'uint64'],
  tags: [7, TAGS]
} as const satisfies Fields
const PUSH = {
  channel: [2, 'string'],
  pub: [4, { message: PUB }],
  join: [5, { message: { info: [1, { message: INFO }] } }],
  leave: [6, { message: { info: [1, { message: INFO }] } }],
  unsubscribe: [7, { message: { code: [2, 'uint32'], reason: [3, 'string'] } }],
  message: [8, { message: { data: [1, 'bytes'] } }]
} as const satisfies Fields

function read(bytes: Buffer, fields: Fields): Record<string, unknown> {
  const [reply, ...more] = [...delimitedIn(bytes)]
  t.same(more, [])
  return decodeMessage(fields, reply!)
}
const pushOf = ({ bytes }: SdkFrame) => read(bytes, { push: [4, { message: PUSH }] }).push

t.test('each push of the server has a protobuf form', async (t) => {
  const member = { client: 'node-1', user: 'ann', info: { name: 'Ann' } }
  const info = { user: 'ann', client: 'node-1', conn_info: Buffer.from('{"name":"Ann"}') }
  const joined = format.encode(serverMessage(channel, { event: 'Join', payload: member }))
  t.same(pushOf(joined), { channel, join: { info } })
  const left = format.encode(serverMessage(channel, { event: 'Leave', payload: { client: 'x', user: '' } }))
  t.same(pushOf(left), { channel, leave: { info: { client: 'x' } } })
  const gap: SdkFrame = format.encode(historyGap(channel))
  t.same(pushOf(gap), { channel, unsubscribe: { code: 2500, reason: 'insufficient state' } })
  t.ok(gap.ends)
  const many = serverMessage(channel, { event: 'Presence', payload: { count: 2000, users: 3 } })
  t.same(pushOf(format.encode(many)), { message: { data: Buffer.from(many.text) } })
  t.same(format.ping, Buffer.from([0]))
})

t.test('a publication contains the bytes of the payload, its event, sender and position', async (t) => {
  const envelope = (event: string, rest: object) => JSON.stringify({ event, channel, payload: 0, ...rest })
  const claims = { sub: 'ann', mode: 'rw', message_delivered_at: 1 }
  const text = envelope('WebsocketMessage', { claims }).replace('"payload":0', '"payload": [1.0,\n 2]')
  const position = 2 ** 52 + 1
  t.same(pushOf(format.encode({ channel, text, position })), {
    channel,
    pub: {
      data: Buffer.from('[1.0,\n 2]'),
      info: { user: 'ann', conn_info: Buffer.from('{"sub":"ann","mode":"rw"}') },
      offset: position,
      tags: { event: 'WebsocketMessage' }
    }
  })
  const bytes = Buffer.from([0xff, 0])
  const binary = envelope('Bytes', { payload: bytes.toString('base64'), encoding: 'base64' })
  t.same(pushOf(format.encode({ channel, text: binary, bytes })), {
    channel,
    pub: { data: bytes, tags: { event: 'Bytes' } }
  })
  t.same(pushOf(format.encode({ channel, text: 'hello', raw: true })), {
    channel,
    pub: { data: Buffer.from('"hello"') }
  })
  // Longer than one byte of a length can express, at each level.
  const long = JSON.stringify('x'.repeat(300_000))
  const large = envelope('Tick', {}).replace('"payload":0', `"payload":${long}`)
  t.same(pushOf(format.encode({ channel, text: large })), {
    channel,
    pub: { data: Buffer.from(long), tags: { event: 'Tick' } }
  })
})

t.test('a reply that cannot be encoded leaves nothing behind in the next', async (t) => {
  t.throws(() => format.reply({ id: 2 ** 40, method: 'ping', result: {} }), /uint32/)
  const result = { presence: { a: { user: '', client: 'a', conn_info: undefined } } }
  t.same(
    read(format.reply({ id: 7, method: 'ping', result: {} }), {
      id: [1, 'uint32'],
      ping: [12, { message: {} }]
    }),
    {
      id: 7,
      ping: {}
    }
  )
  t.match(format.reply({ id: 8, method: 'presence', result }).toString('latin1'), /a/)
  t.equal(read(format.reply({ id: 9, error: { code: 100, message: 'x' } }), { id: [1, 'uint32'] }).id, 9)
})

t.test('decodes several commands in one piece, with answers to pings between them', async (t) => {
  const sent = Buffer.concat([
    encodeDelimited(COMMAND, { id: 1, connect: { subs: { ['__proto__']: { offset: 5 }, a: {} } } }),
    Buffer.from([0]),
    encodeDelimited(COMMAND, { id: 2, publish: { channel, data: '{"n":1}' } }),
    encodeDelimited(COMMAND, { id: 3, publish: { channel, data: Buffer.from([0xff]) } }),
    encodeDelimited(COMMAND, { id: 4, publish: { channel, data: 'text' } }),
    encodeDelimited(COMMAND, {
      id: 5,
      history: { channel, limit: -1, since: { offset: 2 ** 60 }, reverse: true }
    })
  ])
  const [connect, pong, ...others] = [...iterated(format.commandsIn(sent))]
  const { subs } = (connect as unknown as { params: { subs: Record<string, unknown> } }).params
  t.same(Object.entries(subs), [
    ['__proto__', { offset: 5 }],
    ['a', {}]
  ])
  t.equal(pong, PONG)
  t.same(others, [
    { id: 2, method: 'publish', params: { channel, data: new JsonText('{"n":1}') } },
    { id: 3, method: 'publish', params: { channel, data: Buffer.from([0xff]) } },
    { id: 4, method: 'publish', params: { channel, data: Buffer.from('text') } },
    { id: 5, method: 'history', params: { channel, limit: -1, since: { offset: 2 ** 60 }, reverse: true } }
  ])
  t.ok(format.isPong(Buffer.from([0])))
  t.notOk(format.isPong(sent))
})

function* iterated<Item>(iterator: Iterator<Item>): Generator<Item> {
  for (let next = iterator.next(); !next.done; next = iterator.next()) yield next.value
}
