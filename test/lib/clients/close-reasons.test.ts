import { connect } from 'node:net'
import t from 'tap'
import { stream } from '../../support/event-stream.js'
import { build, open, token, until, withPostgres } from '../../support/helper.js'
import { sdk } from '../../support/sdk.js'

const { database } = await withPostgres(t)
const dbUri = await database()

/** The closes so far: `<reason> <code>` and their number. */
async function closes(http: string): Promise<Record<string, number>> {
  const text = await (await fetch(`${http}/metrics`)).text()
  return Object.fromEntries(
    [...text.matchAll(/^pgws_closes_total\{code="(\w+)",reason="([\w-]+)"\} (\d+)$/gm)].map(
      ([, code, reason, count]) => [`${reason} ${code}`, Number(count)]
    )
  )
}

t.test('metrics and the log have one reason for each close, whatever its code', async (t) => {
  const { http, ws, fastify, lines } = await build(t, { dbUri, maxMessageBytes: 2000 })
  const rw = token({ mode: 'rw' })
  const count = async (name: string, expected = 1) => {
    await until(async () => (await closes(http))[name] === expected)
    const [reason] = name.split(' ')
    t.ok(
      lines.some((line) => line.includes('"socket closed"') && line.includes(`"reason":"${reason}"`)),
      name
    )
  }

  const client = await open(t, `${ws}/a/${rw}`)
  client.webSocket.close(4001, 'enough')
  await count('client other')
  ;(await open(t, `${ws}/a/${rw}`)).webSocket.terminate()
  await count('connection-lost 1006')

  // A message that `ws` rejects, one that is not UTF-8, one with a NUL character, and an unmasked frame.
  const large = await open(t, `${ws}/a/${rw}`)
  large.send('x'.repeat(2001))
  t.equal((await large.closed()).code, 1009)
  await count('too-large 1009')
  const broken = await open(t, `${ws}/a/${rw}`)
  broken.webSocket.send(Buffer.from([0xff]), { binary: false })
  t.equal((await broken.closed()).code, 1007)
  await count('invalid 1007')
  const nul = await open(t, `${ws}/a/${rw}`)
  nul.send('a\0b')
  t.equal((await nul.closed()).code, 1007)
  await count('invalid 1007', 2)
  const socket = connect(Number(new URL(http).port), '127.0.0.1')
  t.teardown(() => socket.destroy())
  socket.write(
    `GET /a/${rw} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n`
  )
  socket.once('data', () => socket.end(Buffer.from([0x81, 0x01, 0x61])))
  await until(async () => Object.keys(await closes(http)).some((name) => name.startsWith('protocol ')))

  await open(t, `${ws}/a/${token({ mode: 'r', exp: Math.floor(Date.now() / 1000) + 5 })}`)
  await count('token-expired 3001')
  const events = await stream(t, `${http}/a/${token({ mode: 'r', exp: Math.floor(Date.now() / 1000) + 5 })}`)
  t.ok(events)
  await count('token-expired 3001', 2)
  const operated = await open(t, `${ws}/b/${rw}`)
  const closed = operated.closed()
  await fastify.pgws.disconnect({ channel: 'b' })
  t.equal((await closed).code, 3000)
  await count('disconnected 3000')
})

t.test('SDKs have other codes for the same reasons', async (t) => {
  const { http, ws, fastify, lines } = await build(t, { dbUri })
  const connected = async (claims: object) => {
    const client = sdk(t, ws, { token: token({ sub: 'ann', mode: 'r', ...claims }) })
    client.connect()
    await client.ready()
    return client
  }
  await connected({})
  await fastify.pgws.disconnect({ subject: 'ann' })
  await until(async () => (await closes(http))['disconnected 3503'] === 1)
  // The client does not refresh it.
  const raw = await open(t, `${ws}/connection/websocket`)
  raw.send(
    JSON.stringify({
      id: 1,
      connect: { token: token({ sub: 'bob', mode: 'r', exp: Math.floor(Date.now() / 1000) + 60 }) }
    })
  )
  await raw.received(1)
  raw.send(JSON.stringify({ id: 2, refresh: { token: 'nothing' } }))
  t.equal((await raw.closed()).code, 3500)
  await until(async () => (await closes(http))['invalid-token 3500'] === 1)
  const wrong = await open(t, `${ws}/connection/websocket`)
  wrong.send(JSON.stringify({ id: 1, connect: { token: token({ sub: 'cid', mode: 'r' }) } }))
  await wrong.received(1)
  wrong.send('not a command')
  t.equal((await wrong.closed()).code, 3501)
  await until(async () => (await closes(http))['protocol 3501'] === 1)

  await connected({ sub: 'dan' })
  const plain = await open(t, `${ws}/a/${token({ mode: 'r' })}`)
  const closed = plain.closed()
  await fastify.close()
  t.equal((await closed).code, 1001)
  const closeLines = lines.filter((line) => line.includes('"socket closed"')).map((line) => JSON.parse(line))
  t.same(
    closeLines
      .filter(({ reason }) => reason === 'shutdown')
      .map(({ code }) => code)
      .sort(),
    [1001, 3001]
  )
})
