// Notifications by any role, on every channel that a server listens to.
import fc from 'fast-check'
import {
  AUDIENCE_CHANNEL,
  anyChannel,
  anyNumber,
  anyText,
  anyValue,
  deepJson,
  forDatabase,
  LISTEN_CHANNEL,
  nearly
} from '../values.js'

const nodeId = fc.constantFrom('0123456789abcdef', 'a'.repeat(16), 'b'.repeat(16))
const messageId = fc.constantFrom(
  '692d0000-0000000000000001',
  '00000000-001fffffffffffff',
  'ffffffff-ffffffffffffffff'
)
const count = fc.oneof(fc.nat({ max: 5 }), anyNumber)
const reference = fc.oneof({ weight: 3, arbitrary: fc.nat({ max: 200 }) }, anyNumber)

const messages = fc
  .oneof(
    nearly({
      id: messageId,
      event: fc.constantFrom(
        'Message',
        'WebsocketMessage',
        'HistoryGap',
        'Join',
        'Leave',
        'Presence',
        'Rejected',
        'Bytes'
      ),
      channel: anyChannel,
      payload: anyValue,
      claims: nearly({ message_delivered_at: anyNumber, sub: anyText }),
      encoding: fc.constant('base64')
    }),
    nearly({ pgws: fc.constantFrom('message', 'large'), position: reference, channel: anyChannel })
  )
  .map((value) => JSON.stringify(value))
const deep = deepJson.map((json) => `{"channel":"fuzz:a","payload":${json}}`)

const state = nearly({
  hostname: anyText,
  pid: count,
  version: anyText,
  startedAt: anyNumber,
  connections: count,
  timeout: fc.oneof(fc.constantFrom(0, 1, 50, 10_000), anyNumber),
  presence: count,
  sessions: anyText
})
const entry = fc.oneof(
  fc.tuple(anyChannel, count),
  fc.tuple(anyChannel, count, anyText),
  fc.tuple(anyChannel, count, anyText, anyValue),
  anyValue
)
const values = fc.oneof(
  nearly({ after: count, changes: fc.array(entry, { maxLength: 4 }) }),
  nearly({ version: count, members: fc.array(entry, { maxLength: 4 }) })
)
const part = { part: count, last: fc.boolean() }
const nodeMessage = fc
  .tuple(
    nearly({
      pgws: fc.constant(1),
      from: nodeId,
      type: fc.constantFrom(
        'hello',
        'here',
        'heartbeat',
        'goodbye',
        'question',
        'part',
        'answer',
        'begin',
        'end',
        'presence',
        'presence-question',
        'follow',
        'told'
      ),
      id: fc.oneof(fc.constantFrom('1', 'q', 1, 2), count),
      to: fc.option(nodeId, { nil: undefined }),
      question: fc.constantFrom(
        'channels',
        'connections',
        'disconnect',
        'commands',
        'presence',
        'delivered',
        'stats',
        'past',
        '__proto__',
        'toString'
      ),
      node: state,
      stats: fc.boolean(),
      args: anyValue,
      ...part
    }),
    fc.oneof(
      values.map((value) => JSON.stringify(value)),
      anyValue.map((value) => JSON.stringify(value) ?? ''),
      deepJson,
      fc.constant(undefined)
    )
  )
  .map(([line, text]) => JSON.stringify(line) + (text === undefined ? '' : `\n${text}`))

const packet = fc
  .tuple(
    nearly({
      uid: fc.constantFrom('stranger', 'emitter'),
      nsp: fc.constantFrom('/', '/any', '/other'),
      // Without those that disconnect clients, or remove another node: any role can send what a node sends.
      type: fc.oneof(fc.integer({ min: 0, max: 14 }), anyNumber).filter((type) => type !== 6),
      position: reference,
      n: count,
      attachmentId: fc.oneof(fc.constant(undefined), reference.map(String), anyText),
      data: nearly({
        packet: nearly({
          type: fc.integer({ min: 0, max: 7 }),
          data: fc.array(anyValue),
          id: count,
          nsp: anyText
        }),
        opts: nearly({
          rooms: fc.array(anyText, { maxLength: 3 }),
          except: fc.array(anyText, { maxLength: 3 }),
          flags: nearly({ volatile: fc.boolean(), timeout: anyNumber, compress: fc.boolean() })
        }),
        rooms: fc.array(anyText, { maxLength: 3 }),
        requestId: anyText,
        packetId: anyText,
        sockets: anyValue,
        clientCount: anyNumber,
        packets: anyValue
      })
    }),
    fc.boolean()
  )
  .map(([value, whole]) => JSON.stringify(whole ? value : { ...value, data: undefined }))

const PAYLOADS = {
  [LISTEN_CHANNEL]: fc.oneof(messages, messages, deep),
  pgws: fc.constantFrom('settings', 'schema', ''),
  [`pgws_nodes:${LISTEN_CHANNEL}`]: nodeMessage,
  'raw:a': anyText,
  [AUDIENCE_CHANNEL]: fc
    .tuple(fc.constantFrom('', 'default', 'a,b', ',', '\\'), anyText)
    .map((parts) => parts.join(',')),
  'socket.io#/': packet,
  'socket.io#/any': packet
}
const notification = fc.oneof(
  ...Object.entries(PAYLOADS).map(([channel, payload]) =>
    fc.record({
      channel: fc.constant(channel),
      payload: fc.oneof({ weight: 8, arbitrary: payload }, anyText, deepJson)
    })
  )
)

export const notifications = fc.record({
  way: fc.constant('notifications'),
  sent: fc.array(notification, { minLength: 1, maxLength: 20 })
})

export async function runNotifications({ sent }, { pool }) {
  const short = sent.map(({ channel, payload }) => {
    const text = forDatabase(payload)
    return { channel, payload: Buffer.byteLength(text) < 8000 ? text : text.slice(0, 2600).toWellFormed() }
  })
  await pool.query(
    'select pg_notify(channel, payload) from json_to_recordset($1) as n (channel text, payload text)',
    [JSON.stringify(short)]
  )
}
