import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { token } from './helper.js'

const rw = token({ mode: 'rw', sub: 'somebody' })
const CHANNELS = ['room1', 'room2', 'raw:1', 'raw:2', 'kept', 'plain']

/** A generator of random numbers from 0 to 1 (mulberry32). Each seed gives one sequence. */
export function randomOf(seed: number): () => number {
  let state = seed | 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let value = Math.imul(state ^ (state >>> 15), 1 | state)
    value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value
    return ((value ^ (value >>> 14)) >>> 0) / 4294967296
  }
}

const http = (line: string, headers: string[], body = '') =>
  `${[`${line} HTTP/1.1`, 'Host: x', ...headers].join('\r\n')}\r\n\r\n${body}`

const upgrade = (url: string) =>
  http(`GET ${url}`, [
    'Connection: Upgrade',
    'Upgrade: websocket',
    'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
    'Sec-WebSocket-Version: 13'
  ])

const events = (url: string) => http(`GET ${url}`, ['Accept: text/event-stream'])

/** A client's frame. The mask is zero, which RFC 6455, section 5.3, allows. */
function frame(text: string, opcode = 1): Buffer {
  const body = Buffer.from(text)
  const head =
    body.length < 126
      ? [0x80 | opcode, 0x80 | body.length]
      : [0x80 | opcode, 0x80 | 126, body.length >> 8, body.length & 0xff]
  return Buffer.concat([Buffer.from([...head, 0, 0, 0, 0]), body])
}

const lines = (channel: string) =>
  [
    { id: 1, connect: { token: rw } },
    { id: 2, subscribe: { channel, join_leave: true } },
    { id: 3, presence: { channel } },
    { id: 4, unsubscribe: { channel } },
    { id: 5, subscribe: { channel } }
  ].map((command) => JSON.stringify(command))

const httpStream = (channel: string) => {
  const body = lines(channel).join('\n')
  return http('POST /connection/http_stream', [`Content-Length: ${Buffer.byteLength(body)}`], body)
}
const sse = (channel: string) =>
  http(`GET /connection/sse?cf_connect=${encodeURIComponent(lines(channel).join('\n'))}`, [])
const socket = (channel: string) => upgrade(`/${channel}/${rw}?presence=${channel.startsWith('room')}`)
const eventStream = (channel: string) => events(`/${channel}/${rw}?presence=${channel.startsWith('room')}`)
const health = http('GET /health', [])
const h2c = http('GET /health', [
  'Connection: Upgrade, HTTP2-Settings',
  'Upgrade: h2c',
  'HTTP2-Settings: AAMAAABk'
])

/** What each kind of client sends, piece by piece. */
export const KINDS: Record<string, (channel: string) => (string | Buffer)[]> = {
  websocket: (channel) => [socket(channel), frame('hello'), frame('again'), frame('\x03\xe8', 8)],
  'websocket in all channels': () => [
    upgrade(`/${token({ mode: 'rw', channels: CHANNELS })}`),
    frame('to all'),
    frame('', 9)
  ],
  'websocket that catches up': () => [upgrade(`/kept/${rw}?since=earliest`), frame('kept')],
  'event stream': (channel) => [eventStream(channel)],
  'event stream that catches up': () => [events(`/kept/${rw}?since=earliest`)],
  'audience endpoint': () => [upgrade('/audience')],
  'SDK on a websocket': (channel) => [
    upgrade('/connection/websocket'),
    ...lines(channel).map((line) => frame(line))
  ],
  'SDK on server-sent events': (channel) => [sse(channel)],
  'SDK on an HTTP stream': (channel) => [httpStream(channel)],
  'pipelined streams': (channel) => [
    eventStream(channel) + eventStream(channel) + sse(channel) + httpStream(channel),
    health,
    socket(channel)
  ],
  'stream behind a request': (channel) => [health + eventStream(channel), httpStream(channel)],
  'upgrade behind a request': (channel) => [health + socket(channel), frame('hello')],
  'upgrade behind a stream': (channel) => [eventStream(channel) + socket(channel), frame('hello')],
  'another protocol': () => [h2c + health],
  refused: () => [upgrade(`/a/${rw.slice(0, -2)}`)],
  'refused stream': () => [events(`/a/${rw.slice(0, -2)}`) + health]
}

export interface ChurnOptions {
  port: number
  seed: number
  milliseconds: number
  /** The number of concurrent clients. */
  clients: number
}

/**
 * Opens clients of every kind, and ends each at a random moment and in a random way.
 * @returns the number of clients of each kind
 */
export async function churn({
  port,
  seed,
  milliseconds,
  clients
}: ChurnOptions): Promise<Record<string, number>> {
  const random = randomOf(seed)
  const below = (count: number) => Math.floor(random() * count)
  const kinds = Object.entries(KINDS)
  const counts: Record<string, number> = {}
  const end = Date.now() + milliseconds

  async function one(): Promise<void> {
    const [kind, pieces] = kinds[below(kinds.length)]!
    counts[kind] = (counts[kind] ?? 0) + 1
    const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()))
    socket.on('error', () => {})
    // One client in eight does not read.
    if (below(8) > 0) socket.resume()
    for (const piece of pieces(CHANNELS[below(CHANNELS.length)]!)) {
      // Sometimes it sends only a part.
      const sent = below(20) === 0 ? piece.slice(0, below(piece.length)) : piece
      socket.write(sent)
      await pause()
      if (socket.destroyed || below(6) === 0) break
    }
    await leave(socket)
    await closed
  }

  const pause = () => sleep(below(3) === 0 ? below(60) : below(6))

  async function leave(socket: Socket): Promise<void> {
    switch (below(4)) {
      case 0:
        socket.resetAndDestroy()
        return
      case 1:
        socket.end()
        await pause()
        break
      case 2:
        await pause()
    }
    socket.destroy()
  }

  await Promise.all(
    Array.from({ length: clients }, async () => {
      while (Date.now() < end) await one()
    })
  )
  return counts
}
