// Centrifugo's client protocol in protobuf: commands that are nearly right, and bytes that are not commands.
import fc from 'fast-check'
import { anyChannel, anyText, anyToken, tokens } from '../values.js'
import { anyEnd, converse, frame, head, UPGRADE } from './sockets.js'

/** A varint of any size (https://protobuf.dev/programming-guides/encoding). */
function varint(value) {
  const bytes = []
  for (let rest = BigInt(value); ; rest >>= 7n) {
    if (rest < 0x80n) return Buffer.from([...bytes, Number(rest)])
    bytes.push(Number(rest & 0x7fn) | 0x80)
  }
}

const VARINT = 0
const BYTES = 2
const tag = (number, wireType) => varint((number << 3) | wireType)
const delimited = (...parts) => {
  const all = Buffer.concat(parts)
  return Buffer.concat([varint(all.length), all])
}
const text = (number, value) =>
  Buffer.concat([tag(number, BYTES), delimited(Buffer.from(value.toWellFormed()))])
const message = (number, ...fields) => Buffer.concat([tag(number, BYTES), delimited(...fields)])
const number = (field, value) => Buffer.concat([tag(field, VARINT), varint(value)])

const anyVarint = fc.oneof(fc.nat({ max: 300 }), fc.bigInt({ min: 0n, max: 2n ** 70n })).map(varint)
const anyBytes = fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes))
const anyField = fc.oneof(
  fc
    .tuple(fc.integer({ min: 0, max: 20 }), fc.integer({ min: 0, max: 7 }), fc.oneof(anyVarint, anyBytes))
    .map(([field, wireType, value]) => Buffer.concat([tag(field, wireType), value])),
  // A length without content.
  fc
    .tuple(fc.integer({ min: 1, max: 20 }), fc.constantFrom(1, 127, 2 ** 20, 2 ** 31, 2 ** 32 - 1, 2 ** 53))
    .map(([field, length]) => Buffer.concat([tag(field, BYTES), varint(length)])),
  // Nested messages, and nested groups.
  fc.tuple(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 2000 })).map(([field, depth]) => {
    let nested = Buffer.alloc(0)
    for (let i = 0; i < Math.min(depth, 200); i++) nested = message(field, nested)
    return nested
  }),
  fc.integer({ min: 1, max: 100_000 }).map((depth) => Buffer.alloc(depth * 2, tag(30, 3)))
)
const someFields = fc.array(anyField, { maxLength: 3 }).map((fields) => Buffer.concat(fields))

const anyId = fc.oneof({ weight: 5, arbitrary: fc.integer({ min: 1, max: 50 }) }, fc.nat(2 ** 31))
const data = fc.oneof(
  anyBytes,
  anyText.map((value) => Buffer.from(JSON.stringify(value.toWellFormed())))
)
const position = fc
  .tuple(fc.boolean(), fc.bigInt({ min: 0n, max: 2n ** 64n }), anyText)
  .map(([recover, offset, epoch]) =>
    Buffer.concat([number(3, Number(recover)), text(6, epoch), number(7, offset)])
  )
const anyCommand = fc.oneof(
  fc
    .tuple(anyChannel, anyToken, position)
    .map(([channel, token, at]) => message(5, text(1, channel), text(2, tokens[token]), at)),
  fc.tuple(anyChannel).map(([channel]) => message(6, text(1, channel))),
  fc.tuple(anyChannel, data).map(([channel, bytes]) => message(7, text(1, channel), message(2, bytes))),
  fc
    .tuple(anyChannel, anyVarint)
    .map(([channel, limit]) => message(10, text(1, channel), tag(7, VARINT), limit)),
  fc.tuple(anyToken).map(([token]) => message(14, text(1, tokens[token]))),
  fc
    .tuple(anyChannel, anyText)
    .map(([channel, epoch]) => message(4, message(3, text(1, channel), message(2, text(6, epoch))))),
  fc.integer({ min: 1, max: 20 }).map((method) => message(method)),
  fc.constant(Buffer.alloc(0))
)
/** Most are complete. In others, a part is missing or out of place. */
const anyDelimited = fc
  .tuple(
    anyId,
    anyCommand,
    fc.option(someFields, { nil: Buffer.alloc(0), freq: 3 }),
    fc.integer({ min: -20, max: 4 })
  )
  .map(([id, command, more, cut]) => {
    const bytes = delimited(number(1, id), command, more)
    return cut > 0 ? bytes.subarray(0, -cut) : bytes
  })

export const protobuf = fc.record({
  way: fc.constant('protobuf'),
  transport: fc.constantFrom('websocket', 'websocket', 'http_stream', 'emulation'),
  token: anyToken,
  commands: fc.array(fc.oneof({ weight: 5, arbitrary: anyDelimited }, { weight: 1, arbitrary: anyBytes }), {
    maxLength: 8
  }),
  times: fc.constantFrom(1, 1, 1, 1, 1, 500),
  polite: fc.boolean(),
  end: anyEnd
})

export async function runProtobuf({ transport, token, commands, times, polite, end }, { port }) {
  const connect = delimited(number(1, 1), message(4, text(1, tokens[token])))
  const all = Array(times).fill(commands).flat()
  const sent = polite ? [connect, ...all] : all
  if (transport === 'websocket') {
    const handshake = head('GET', '/connection/websocket?format=protobuf', UPGRADE)
    const frames = sent.map((payload) => frame({ opcode: 2, payload }))
    await converse(port, [Buffer.from(handshake), Buffer.concat(frames)], end)
    return
  }
  const body =
    transport === 'emulation'
      ? Buffer.concat([text(1, '0'.repeat(16)), text(2, 'x'), message(3, ...sent)])
      : Buffer.concat(sent)
  const path = transport === 'emulation' ? '/emulation' : '/connection/http_stream'
  const headers = {
    Host: 'x',
    'Content-Type': 'application/octet-stream',
    'Content-Length': body.length
  }
  const how = end.how === 'answer' ? 'patience' : end.how
  const answer = await converse(port, [Buffer.from(head('POST', path, headers)), body], { ...end, how })
  if (/^HTTP\/1\.1 500/m.test(answer)) throw new Error(`a server error: ${answer.slice(0, 1000)}`)
}
