import { once } from 'node:events'
import { connect } from 'node:net'
import fc from 'fast-check'
import t from 'tap'
import { tokenReader } from '../../lib/auth/claims.js'
import { authorize } from '../../lib/auth/permissions.js'
import { matchesPattern } from '../../lib/channel-pattern.js'
import { envelope, senderOf } from '../../lib/messages/envelope.js'
import { NOTIFY_PAYLOAD_LIMIT } from '../../lib/postgres/database-channel.js'
import { messageIn, webSocketFrames } from '../../lib/transports/frames.js'
import { build, open, query, Refused, token, until, withPostgres } from '../support/helper.js'

const { database } = await withPostgres(t)
const dbUri = await database()
const { ws, http, port, fastify, lines } = await build(t, { dbUri, metaChannel: 'meta' })
const reader = token({ mode: 'r' })
const witness = await open(t, `${ws}/witness/${reader}`)

/** Checks that the server still works, and has sent nothing to other clients. */
async function unharmed(): Promise<void> {
  const before = witness.messages.length
  await fastify.pgws.publish('witness', 'still there')
  await witness.received(before + 1)
  if (witness.messages.some((text) => !text.includes('still there'))) {
    throw new Error(`a message went astray: ${witness.messages}`)
  }
}

/** The status of the answer to bytes on a new connection. 0 if it is closed without an answer. */
async function raw(bytes: Buffer): Promise<number> {
  const socket = connect(port, '127.0.0.1')
  socket.on('error', () => {})
  let answer = ''
  socket.on('data', (chunk) => {
    answer += chunk.toString('latin1')
    socket.destroy()
  })
  socket.end(bytes)
  await once(socket, 'close')
  return Number(/^HTTP\/1\.1 (\d+)/.exec(answer)?.[1] ?? 0)
}

const upgrade = (path: string) =>
  Buffer.from(
    `GET ${path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n`,
    'latin1'
  )
const pathCharacter = fc.constantFrom(...'/%2FeyJ.%00?&=#+~\\<"é😀:@*..-_', 'a', '%ff', '%C3%A9', 'channel')
const path = fc.array(pathCharacter, { maxLength: 30 }).map((parts) => `/${parts.join('')}`)
const json = fc.jsonValue({ maxDepth: 3 })

t.test('any path is answered with neither success nor a server error', async (t) => {
  await fc.assert(
    fc.asyncProperty(path, fc.boolean(), async (text, asUpgrade) => {
      const plain = Buffer.from(`GET ${text} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`, 'latin1')
      const status = await raw(asUpgrade ? upgrade(text) : plain)
      // A path without a token may be an address such as `/health`. None opens a socket.
      return status === 200 ? !asUpgrade : status >= 300 && status < 500
    }),
    { numRuns: 400 }
  )
  await unharmed()
  t.pass()
})

t.test('any token is rejected, and no part of it is repeated', async (t) => {
  const segment = fc.oneof(
    json.map((value) => Buffer.from(JSON.stringify(value)).toString('base64url')),
    fc.base64String(),
    fc.constantFrom(...reader.split('.')),
    fc.constant(Buffer.from('{"alg":"none"}').toString('base64url'))
  )
  const forged = fc.array(segment, { maxLength: 5 }).map((segments) => segments.join('.'))
  await fc.assert(
    fc.asyncProperty(forged, async (text) => {
      fc.pre(text !== reader)
      lines.length = 0
      try {
        await open(t, `${ws}/a/${encodeURIComponent(text)}`)
      } catch (error) {
        if (!(error instanceof Refused)) throw error
        const shown = text.length > 8 && (error.body.includes(text) || lines.join('').includes(text))
        return error.status === 401 && !shown
      }
      return false
    }),
    { numRuns: 200 }
  )
  await unharmed()
})

t.test('with any claims, a socket joins the channels that they name, or none', async () => {
  const name = fc.oneof(fc.constantFrom('a', 'b', 'a:b'), json)
  const claims = fc.record(
    {
      mode: fc.oneof(fc.constantFrom('r', 'w', 'rw'), json),
      channel: name,
      channels: fc.oneof(fc.array(name), json),
      channel_patterns: fc.oneof(fc.array(fc.constantFrom('*', '**', 'a*', 'b:*')), json),
      exp: fc.oneof(fc.constant(2e9), json),
      nbf: fc.oneof(fc.constant(1), json)
    },
    { requiredKeys: ['mode'] }
  )
  fc.assert(
    fc.property(
      claims,
      fc.option(fc.constantFrom('a', 'b', 'a:b', 'c'), { nil: undefined }),
      (given, asked) => {
        let channels: readonly string[]
        try {
          channels = authorize(
            tokenReader({})(given as never),
            asked === undefined ? undefined : [asked]
          ).channels
        } catch (error) {
          return [401, 403].includes((error as { statusCode: number }).statusCode)
        }
        const patterns = (given.channel_patterns ?? []) as string[]
        const free = !('channel' in given) && !('channels' in given) && !('channel_patterns' in given)
        return channels.every(
          (channel) =>
            (asked === undefined || channel === asked) &&
            (free ||
              channel === given.channel ||
              ((given.channels ?? []) as unknown[]).includes(channel) ||
              patterns.some((pattern) => matchesPattern(pattern, channel)))
        )
      }
    ),
    { numRuns: 2000 }
  )
})

t.test('any pattern matches what its regular expression would match', async () => {
  const text = fc.array(fc.constantFrom('a', 'b', ':', '*', '**', '.', '['), { maxLength: 8 })
  fc.assert(
    fc.property(text, text, (parts, channel) => {
      const pattern = parts.join('')
      const expression = pattern
        .split(/(\*\*|\*)/)
        .map((part) =>
          part === '**'
            ? '[^]*'
            : part === '*'
              ? '[^:]*'
              : part.replace(/[.[\]]/g, (special) => `\\${special}`)
        )
        .join('')
      const name = channel.join('')
      return matchesPattern(pattern, name) === new RegExp(`^${expression}$`).test(name)
    }),
    { numRuns: 3000 }
  )
  // The time is bounded for any pattern.
  matchesPattern('**a'.repeat(300), 'a'.repeat(3000))
})

t.test('any bytes on a socket close it or do nothing, and affect no other socket', async () => {
  const path = `/a/${token({ mode: 'rw' })}`
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), async (bytes) => {
      const socket = connect(port, '127.0.0.1')
      socket.on('error', () => {})
      socket.write(upgrade(path))
      await once(socket, 'data')
      socket.end(bytes)
      socket.resume()
      await once(socket, 'close')
      return true
    }),
    { numRuns: 150 }
  )
  await unharmed()
})

t.test('any message can be read again from its frame and envelope', async () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 70_000, size: 'max' }), (text) => {
      const wellFormed = Buffer.from(text).toString()
      return (
        messageIn(webSocketFrames.encode({ channel: 'a', text: wellFormed })).data.toString() === wellFormed
      )
    }),
    { numRuns: 100 }
  )
  fc.assert(
    fc.property(
      fc.string({ unit: 'binary' }),
      json,
      fc.dictionary(fc.string(), json),
      (channel, payload, claims) => {
        const before = Math.floor(Date.now() / 1000)
        const parsed = JSON.parse(envelope('WebsocketMessage', channel, payload, senderOf(claims)))
        const { message_delivered_at: sentAt, ...shown } = parsed.claims
        const { message_delivered_at: _, ...own } = JSON.parse(JSON.stringify(claims))
        return (
          parsed.channel === channel &&
          JSON.stringify(parsed.payload) === JSON.stringify(payload) &&
          JSON.stringify(shown) === JSON.stringify(own) &&
          sentAt >= before &&
          // Times are distinct, so one may be microseconds ahead, even in the next second.
          sentAt <= Math.floor(Date.now() / 1000) + 1
        )
      }
    ),
    { numRuns: 1000 }
  )
})

t.test('any notification reaches only the channel that it names', async (t) => {
  const names = ['one', 'two', 'postgres-websockets-listener']
  const clients = await Promise.all(names.map((name) => open(t, `${ws}/${name}/${reader}`)))
  const payload = fc.oneof(
    json.map((value) => JSON.stringify(value)),
    fc.string(),
    fc
      .record({ channel: fc.oneof(fc.constantFrom('one', 'two', 'three'), json), n: fc.nat() })
      .map((value) => JSON.stringify(value)),
    fc.constantFrom('{', '{"channel":"one"', '{"channel":"one","channel":"two"}', '[{"channel":"one"}]')
  )
  await fc.assert(
    fc.asyncProperty(fc.array(payload, { minLength: 1, maxLength: 20 }), async (texts) => {
      // PostgreSQL's text has no NUL, and PostgreSQL merges equal notifications of a transaction.
      const sent = [
        ...new Set(texts.map((text) => Buffer.from(text.replaceAll('\0', '')).toString()))
      ].filter((text) => Buffer.byteLength(text) < NOTIFY_PAYLOAD_LIMIT)
      const expected = names.map((): string[] => [])
      for (const text of sent) {
        let channel: unknown
        try {
          channel = JSON.parse(text)?.channel
        } catch {}
        const isObject = /^[ \t\r\n]*\{/.test(text) && typeof channel === 'string'
        expected[names.indexOf(isObject ? (channel as string) : names[2]!)]?.push(text)
      }
      for (const client of clients) client.messages.length = 0
      await query(dbUri, 'select pg_notify($1, text) from unnest($2::text[]) text', [names[2], sent])
      await unharmed()
      await until(() => clients.every((client, i) => client.messages.length >= expected[i]!.length))
      return clients.every((client, i) => JSON.stringify(client.messages) === JSON.stringify(expected[i]))
    }),
    { numRuns: 50 }
  )
})

t.test('any body of POST /publish is accepted or rejected, and never a server error', async () => {
  const authorization = `Bearer ${token({ mode: 'rw', channels: ['mine'] })}`
  const item = fc.record(
    {
      channel: fc.oneof(fc.constantFrom('mine', 'theirs', ''), json),
      channels: fc.oneof(fc.array(fc.constantFrom('mine', 'theirs')), json),
      payload: json
    },
    { requiredKeys: [] }
  )
  const body = fc.oneof(
    fc.string(),
    json.map((value) => JSON.stringify(value)),
    item.map((value) => JSON.stringify(value)),
    fc.array(item, { maxLength: 4 }).map((value) => JSON.stringify(value))
  )
  await fc.assert(
    fc.asyncProperty(body, fc.constantFrom('application/json', 'text/plain', ''), async (text, type) => {
      const response = await fetch(`${http}/publish`, {
        method: 'POST',
        headers: { authorization, 'content-type': type },
        body: text
      })
      await response.text()
      return [202, 400, 403, 413, 415].includes(response.status)
    }),
    { numRuns: 300 }
  )
  await unharmed()
})
