// Frames on a plain websocket.
import fc from 'fast-check'
import { anyChannel, anyText, anyToken, tokens } from '../values.js'
import { anyEnd, anyFrame, converse, frame, head, UPGRADE } from './sockets.js'

const anyPayload = fc.oneof(
  anyText,
  fc.uint8Array({ maxLength: 50 }).map((bytes) => Buffer.from(bytes))
)

export const webSocket = fc.record({
  way: fc.constant('websocket'),
  token: anyToken,
  channel: anyChannel,
  query: fc.constantFrom('', '?since=earliest', '?presence=true', '?binary=true&rejections=true', '?since=x'),
  frames: fc.array(anyFrame(anyPayload), { maxLength: 8 }),
  times: fc.constantFrom(1, 1, 1, 200),
  garbage: fc.uint8Array({ maxLength: 20 }),
  early: fc.boolean(),
  end: anyEnd
})

export async function runWebSocket({ token, channel, query, frames, times, garbage, early, end }, { port }) {
  const path = `/${encodeURIComponent(channel.toWellFormed())}/${tokens[token]}${query}`
  const handshake = Buffer.from(head('GET', path, UPGRADE))
  const one = Buffer.concat(frames.map(frame))
  const all = Buffer.concat([...Array(times).fill(one), Buffer.from(garbage)])
  await converse(port, early ? [Buffer.concat([handshake, all])] : [handshake, all], end)
}
