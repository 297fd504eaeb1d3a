// Commands of Centrifugo's client protocol: over a websocket, in the body of a stream, and beside one.
import fc from 'fast-check'
import { anyChannel, anyNumber, anyText, anyToken, anyValue, deepJson, nearly, tokens } from '../values.js'
import { anyEnd, converse, frame, head, UPGRADE } from './sockets.js'

const id = fc.oneof({ weight: 5, arbitrary: fc.integer({ min: 1, max: 50 }) }, anyNumber)
const aToken = anyToken.map((name) => tokens[name])
const position = {
  recover: fc.boolean(),
  epoch: fc.constantFrom('', '00000000', '692d0000'),
  offset: fc.oneof(fc.nat(), anyNumber)
}
const commands = {
  connect: nearly({
    token: aToken,
    name: fc.constant('js'),
    version: fc.constant('1'),
    subs: fc.dictionary(anyChannel, nearly(position), { maxKeys: 3 })
  }),
  subscribe: nearly({
    channel: anyChannel,
    token: aToken,
    positioned: fc.boolean(),
    join_leave: fc.boolean(),
    ...position
  }),
  unsubscribe: nearly({ channel: anyChannel }),
  publish: nearly({ channel: anyChannel, data: anyValue }),
  presence: nearly({ channel: anyChannel }),
  presence_stats: nearly({ channel: anyChannel }),
  history: nearly({ channel: anyChannel, limit: anyNumber, reverse: fc.boolean(), since: nearly(position) }),
  rpc: nearly({ method: anyText, data: anyValue }),
  refresh: nearly({ token: aToken }),
  sub_refresh: nearly({ channel: anyChannel, token: aToken }),
  send: nearly({ data: anyValue }),
  ping: fc.constant({})
}
const anyCommand = fc.oneof(
  ...Object.entries(commands).map(([name, params]) =>
    fc.record({ id, [name]: params }).map((command) => JSON.stringify(command))
  ),
  fc.constantFrom('{}', '', 'null', '[]', '{"id":1}', '{"connect":{}}', '{"id":1,"publish":null}'),
  deepJson.map((json) => `{"id":9,"publish":{"channel":"fuzz:a","data":${json}}}`),
  anyValue.map((value) => JSON.stringify(value) ?? ''),
  anyText
)
const connect = (name) => JSON.stringify({ id: 1, connect: { token: tokens[name] } })

export const sdk = fc.record({
  way: fc.constant('sdk'),
  transport: fc.constantFrom('websocket', 'websocket', 'websocket', 'sse', 'http_stream'),
  token: fc.oneof({ weight: 3, arbitrary: fc.constantFrom('rw', 'r', 'w') }, anyToken),
  commands: fc.array(anyCommand, { maxLength: 8 }),
  times: fc.constantFrom(1, 1, 1, 1, 1, 1, 500, 3000),
  inOneFrame: fc.boolean(),
  polite: fc.boolean(),
  end: anyEnd
})

export async function runSdk(given, target) {
  const { transport, token, commands, times, inOneFrame, polite, end } = given
  const lines = [...(polite ? [connect(token)] : []), ...Array(times).fill(commands).flat()]
  if (transport === 'websocket') {
    const text = inOneFrame ? [lines.join('\n')] : lines
    const frames = text.map((payload) => frame({ opcode: 1, payload: payload.toWellFormed() }))
    const handshake = Buffer.from(head('GET', '/connection/websocket', UPGRADE))
    await converse(target.port, [handshake, Buffer.concat(frames)], end)
    return
  }
  await streamed(given, target, lines)
}

/** A stream and its commands, some of which are for sessions that do not exist. */
async function streamed({ transport, token, commands, polite, end }, { port }, lines) {
  const first = polite ? connect(token) : (lines[0] ?? '')
  const body = Buffer.from(first.toWellFormed())
  const opening =
    transport === 'sse'
      ? head('GET', `/connection/sse?cf_connect=${encodeURIComponent(first.toWellFormed())}`, {
          Host: 'x',
          Accept: 'text/event-stream'
        })
      : Buffer.concat([
          Buffer.from(
            head('POST', '/connection/http_stream', {
              Host: 'x',
              'Content-Type': 'application/json',
              'Content-Length': body.length
            })
          ),
          body
        ])
  const stream = converse(port, [opening], { ...end, how: end.how === 'answer' ? 'patience' : end.how })
  const [session = 'x', node = '0'.repeat(16)] = await heard(port, opening)
  const emulated = Buffer.from(JSON.stringify({ session, node, data: commands.join('\n') }).toWellFormed())
  const headers = { Host: 'x', 'Content-Type': 'application/json', 'Content-Length': emulated.length }
  const answer = await converse(
    port,
    [Buffer.concat([Buffer.from(head('POST', '/emulation', headers)), emulated])],
    end
  )
  if (/^HTTP\/1\.1 500/m.test(answer)) throw new Error(`a server error: ${answer.slice(0, 1000)}`)
  await stream
}

/** A session of this client, and its node. */
async function heard(port, opening) {
  const answer = await converse(port, [opening], { how: 'answer', pause: 0 })
  const member = (name) => new RegExp(`"${name}":"([^"]*)"`).exec(answer)?.[1]
  return [member('session'), member('node')]
}
