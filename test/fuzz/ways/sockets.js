// The common part of all ways over TCP: bytes in pieces, and some kind of end.
import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'

/** How long to wait for an answer that may never come, in milliseconds. */
const PATIENCE = 50

export const anyEnd = fc.record({
  pause: fc.integer({ min: 0, max: 20 }),
  how: fc.constantFrom('answer', 'answer', 'end', 'reset', 'reset', 'destroy', 'patience')
})

/**
 * Sends bytes on a new connection, and leaves.
 * @param port the port of the server
 * @param pieces written one by one
 * @param end how to disconnect, and after which pause
 * @returns everything that was received, as latin1
 */
export async function converse(port, pieces, { pause, how }) {
  const socket = connect(port, '127.0.0.1')
  socket.on('error', () => {})
  let answer = ''
  let closed = false
  const over = new Promise((resolve) =>
    socket.on('close', () => {
      closed = true
      resolve()
    })
  )
  const answered = new Promise((resolve) => {
    socket.on('data', (chunk) => {
      answer += chunk.toString('latin1')
      resolve()
    })
  })
  for (const piece of pieces) {
    if (closed) break
    if (!socket.write(piece))
      await Promise.race([once(socket, 'drain').catch(() => {}), over, sleep(PATIENCE)])
    // Mostly, it gets a packet of its own.
    await new Promise((resolve) => setImmediate(resolve))
  }
  if (how === 'answer' || how === 'end') await Promise.race([answered, over, sleep(PATIENCE * 4)])
  else if (pause > 0) await sleep(pause)
  if (how === 'reset') socket.resetAndDestroy()
  else if (how === 'destroy' || how === 'answer') socket.destroy()
  else {
    if (how === 'end') socket.end()
    await Promise.race([over, sleep(PATIENCE)])
    socket.destroy()
  }
  await over
  return answer
}

/** The head of a request. */
export function head(method, path, headers) {
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
  return `${method} ${path} HTTP/1.1\r\n${lines.join('')}\r\n`
}

export const UPGRADE = {
  Host: 'localhost',
  Connection: 'Upgrade',
  Upgrade: 'websocket',
  'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==',
  'Sec-WebSocket-Version': '13'
}

/** A client's frame (RFC 6455, section 5.2), with possible errors. */
export function frame({ opcode, payload, fin = true, masked = true, rsv = 0, claimed }) {
  const body = Buffer.from(payload)
  const length = claimed ?? body.length
  const header = [(fin ? 0x80 : 0) | (rsv << 4) | opcode]
  const mask = masked ? 0x80 : 0
  if (length < 126) header.push(mask | length)
  else if (length < 65536) header.push(mask | 126, length >> 8, length & 255)
  else {
    const long = Buffer.alloc(8)
    long.writeBigUInt64BE(BigInt(length))
    header.push(mask | 127, ...long)
  }
  // A mask of zeros changes nothing.
  return Buffer.concat([Buffer.from(header), masked ? Buffer.alloc(4) : Buffer.alloc(0), body])
}

export const anyFrame = (payload) =>
  fc.oneof(
    { weight: 4, arbitrary: fc.record({ opcode: fc.constantFrom(1, 1, 1, 2), payload }) },
    {
      weight: 1,
      arbitrary: fc.record({
        opcode: fc.integer({ min: 0, max: 15 }),
        payload,
        fin: fc.boolean(),
        masked: fc.boolean(),
        rsv: fc.constantFrom(0, 0, 0, 4, 7),
        claimed: fc.option(fc.constantFrom(0, 125, 126, 70_000, 2 ** 40, 2 ** 53 - 1), { nil: undefined })
      })
    }
  )
