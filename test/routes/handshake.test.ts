import { generateKeyPairSync, sign as signBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import { heldClock } from '../support/clock.js'
import { build, notify, open, refusal, sqlListener, token, until, withPostgres } from '../support/helper.js'

const { database } = await withPostgres(t)
const dbUri = await database()
const bearer = (claims: object) => ({ headers: { authorization: `Bearer ${token(claims)}` } })

t.test('accepts the token in the Authorization header, and channels in the query', async (t) => {
  const { ws, fastify, lines } = await build(t, { dbUri })
  const client = await open(t, `${ws}/?channel=a&channel=b%2Fc`, bearer({ mode: 'r' }))
  t.same(
    fastify.pgws.channels().map(({ channel }) => channel),
    ['a', 'b/c']
  )
  await notify(dbUri, '{"channel":"b/c"}')
  await client.received(1)
  const all = await open(t, ws, bearer({ mode: 'r', channels: ['x', 'y'] }))
  await notify(dbUri, '{"channel":"y"}')
  await all.received(1)

  t.equal((await refusal(t, `${ws}/?channel=z`, bearer({ mode: 'r', channels: ['x'] }))).status, 403)
  t.equal((await refusal(t, ws, bearer({ mode: 'r' }))).status, 403)
  t.equal((await refusal(t, `${ws}/?channel=`, bearer({ mode: 'r' }))).status, 400)
  const missing = await refusal(t, `${ws}/?channel=a`)
  t.equal(missing.status, 401)
  t.match(missing.answer, /Authorization: Bearer/)
  t.notMatch(lines.join('\n'), /eyJ/)
})

t.test('accepts the token as a subprotocol, beside the one that the server selects', async (t) => {
  const { ws, lines } = await build(t, { dbUri })
  const jwt = token({ mode: 'r' })
  for (const protocols of [
    ['pgws', `bearer.${jwt}`],
    [`bearer.${jwt}`, 'pgws']
  ]) {
    const webSocket = new WebSocket(`${ws}/?channel=a`, protocols)
    t.teardown(() => webSocket.terminate())
    await once(webSocket, 'open')
    t.equal(webSocket.protocol, 'pgws')
  }
  const alone = new WebSocket(`${ws}/?channel=a`, [`bearer.${jwt}`])
  const [, response] = await once(alone, 'unexpected-response')
  t.equal(response.statusCode, 400)
  t.notMatch(JSON.stringify(response.headers), /eyJ/)
  t.notMatch(lines.join('\n'), /eyJ/)
})

t.test('accepts the token in a cookie, if that is configured', async (t) => {
  await t.rejects(build(t, { dbUri, tokenCookie: 'token' }), {
    message: /tokenCookie.*needs allowedOrigins \(PGWS_ALLOWED_ORIGINS\)/
  })
  const cookie = `other=1; token=${token({ mode: 'r' })}`
  const allowed = await build(t, {
    dbUri,
    tokenCookie: 'token',
    allowedOrigins: 'https://example.org'
  })
  const url = `${allowed.ws}/?channel=a`
  await open(t, url, { headers: { cookie, origin: 'https://example.org' } })
  t.equal((await refusal(t, url, { headers: { cookie, origin: 'https://evil.example' } })).status, 403)
  const off = await build(t, { dbUri })
  t.equal((await refusal(t, `${off.ws}/?channel=a`, { headers: { cookie } })).status, 401)
})

t.test('rejects a websocket at an address for HTTP requests, and says why', async (t) => {
  const { ws } = await build(t, { dbUri: await database() })
  for (const path of [
    '/health',
    '/health/ready',
    '/metrics',
    '/publish',
    '/channels/a/history',
    '/nodes?x=1'
  ]) {
    const { status, answer } = await refusal(t, `${ws}${path}`)
    t.equal(status, 401)
    t.match(
      answer,
      /^Error: the token is not a JSON Web Token \(RFC 7519\)\. "\/.*" is an address for HTTP requests; websockets .* connect to \/:channel\/:token/
    )
  }
  t.equal((await refusal(t, `${ws}/a/b`)).answer, 'Error: the token is not a JSON Web Token (RFC 7519)')
  // A channel can have such a name.
  await open(t, `${ws}/health/${token({ mode: 'r' })}`)
})

t.test('accepts exact origins and subdomains, and rejects others before the upgrade', async (t) => {
  const { ws, http } = await build(t, {
    dbUri,
    allowedOrigins: ['https://example.org', '*.example.com', 'http://localhost:8080']
  })
  const url = `${ws}/a/${token({ mode: 'r' })}`
  await open(t, url)
  for (const origin of [
    'https://example.org',
    'https://a.example.com',
    'http://a.b.example.com',
    'http://localhost:8080'
  ]) {
    await open(t, url, { headers: { origin } })
  }
  for (const origin of [
    'http://example.org',
    'https://example.org.evil.net',
    'https://example.com',
    'https://evilexample.com',
    'https://a.example.com:444',
    'null',
    'http://localhost'
  ]) {
    const { status, answer } = await refusal(t, url, { headers: { origin } })
    t.equal(status, 403, origin)
    t.match(answer, /PGWS_ALLOWED_ORIGINS/)
  }
  const preflight = (origin: string) =>
    fetch(`${http}/publish`, {
      method: 'OPTIONS',
      headers: {
        origin,
        'access-control-request-method': 'POST',
        'access-control-request-headers': 'authorization'
      }
    })
  const yes = await preflight('https://example.org')
  t.equal(yes.headers.get('access-control-allow-origin'), 'https://example.org')
  t.match(yes.headers.get('access-control-allow-headers'), /authorization/)
  t.equal((await preflight('https://evil.example')).headers.get('access-control-allow-origin'), null)
  const answer = await fetch(`${http}/health`, { headers: { origin: 'https://a.example.com' } })
  t.equal(answer.headers.get('access-control-allow-origin'), 'https://a.example.com')
  await t.rejects(build(t, { dbUri, allowedOrigins: 'example.org' }), { message: /allowedOrigins.*https:/ })
})

t.test('channel patterns', async (t) => {
  const { ws, http } = await build(t, { dbUri })
  const claims = { mode: 'rw', channels: ['news'], channel_patterns: ['user:7:*', 'room:**', 'a*z', '[x]'] }
  const jwt = token(claims)
  const path = (channel: string) => `${ws}/${encodeURIComponent(channel)}/${jwt}`
  for (const channel of ['news', 'user:7:inbox', 'user:7:', 'room:1', 'room:1:2', 'az', 'abcz', '[x]']) {
    await open(t, path(channel))
  }
  for (const channel of ['user:7:a:b', 'user:8:inbox', 'room', 'newsx', 'a:z', 'abc', 'x', 'user:7']) {
    t.equal((await refusal(t, path(channel))).status, 403, channel)
  }
  const publish = (channel: string) =>
    fetch(`${http}/publish`, {
      method: 'POST',
      headers: { authorization: `Bearer ${jwt}`, 'content-type': 'application/json' },
      body: JSON.stringify({ channel, payload: 1 })
    })
  t.equal((await publish('room:9')).status, 202)
  t.equal((await publish('other')).status, 403)
  // If the address names no channel, clients join only literal names.
  const all = await open(t, `${ws}/${jwt}`)
  await notify(dbUri, '{"channel":"room:1","n":1}')
  await notify(dbUri, '{"channel":"news","n":2}')
  t.same(await all.received(1), ['{"channel":"news","n":2}'])
  const patternsOnly = token({ mode: 'r', channel_patterns: ['**'] })
  t.equal((await refusal(t, `${ws}/${patternsOnly}`)).status, 403)
  await open(t, `${ws}/anything/${patternsOnly}`)
  t.equal((await refusal(t, `${ws}/a/${token({ mode: 'r', channel_patterns: 'a' })}`)).status, 403)
  t.equal((await refusal(t, `${ws}/a/${token({ mode: 'r', channel_patterns: [] })}`)).status, 403)
})

t.test('envelopeClaims says which claims others see', async (t) => {
  const claims = { mode: 'w', sub: 'me', email: 'me@example.org' }
  for (const [envelopeClaims, seen] of [
    ['all', ['mode', 'sub', 'email', 'message_delivered_at']],
    ['none', ['message_delivered_at']],
    ['sub, name', ['sub', 'message_delivered_at']]
  ] as const) {
    const own = await database()
    const { ws, http } = await build(t, { dbUri: own, envelopeClaims, metaChannel: 'meta' })
    const { payloads } = await sqlListener(t, own)
    const client = await open(t, `${ws}/a/${token(claims)}`)
    client.send('hello')
    await fetch(`${http}/publish`, {
      method: 'POST',
      headers: { authorization: `Bearer ${token(claims)}`, 'content-type': 'application/json' },
      body: '{"channel":"a","payload":1}'
    })
    await until(() => payloads.length === 3)
    for (const payload of payloads) t.same(Object.keys(JSON.parse(payload).claims), seen)
  }
})

t.test('limits the message size, connections, connections of an address, and channels', async (t) => {
  const sizes = await build(t, { dbUri, maxMessageBytes: 100 })
  const sender = await open(t, `${sizes.ws}/a/${token({ mode: 'w' })}`)
  sender.send('x'.repeat(100))
  sender.send('x'.repeat(101))
  t.equal((await sender.closed()).code, 1009)

  const few = await build(t, { dbUri, maxConnections: 2 })
  const url = `${few.ws}/a/${token({ mode: 'r' })}`
  const first = await open(t, url)
  await open(t, url)
  t.equal((await refusal(t, url)).status, 503)
  first.webSocket.close()
  await first.closed()
  await until(() => few.fastify.pgws.channels()[0]?.connections === 1)
  await open(t, url)
  t.equal((await refusal(t, url)).status, 503)
  // A rejected handshake does not count.
  t.match(
    await (await fetch(`${few.http}/metrics`)).text(),
    /pgws_refusals_total\{reason="FST_PGWS_TOO_MANY_CONNECTIONS"\} 2/
  )

  const perAddress = await build(
    t,
    { dbUri, maxConnectionsPerIp: 1 },
    { server: { trustProxy: '127.0.0.1' } }
  )
  const from = (address: string) => ({ headers: { 'x-forwarded-for': address } })
  const there = `${perAddress.ws}/a/${token({ mode: 'r' })}`
  await open(t, there, from('192.0.2.1'))
  await open(t, there, from('192.0.2.2'))
  t.equal((await refusal(t, there, from('192.0.2.1'))).status, 429)

  const channels = Array.from({ length: 101 }, (_, i) => `c${i}`)
  const many = await build(t, { dbUri })
  const { status, answer } = await refusal(t, `${many.ws}/${token({ mode: 'r', channels })}`)
  t.equal(status, 403)
  t.match(answer, /at most 100 channels/)
  await open(t, `${many.ws}/${token({ mode: 'r', channels: channels.slice(1) })}`)
})

t.test('a socket that sends faster than messageRate is read more slowly, and nothing is lost', async (t) => {
  const { ws, http } = await build(t, { dbUri, messageRate: 50 })
  const reader = await open(t, `${ws}/a/${token({ mode: 'r' })}`)
  const sender = await open(t, `${ws}/a/${token({ mode: 'w' })}`)
  const paused = (count: number) =>
    until(async () =>
      (await (await fetch(`${http}/metrics`)).text()).includes(`pgws_paused_sockets ${count}\n`)
    )
  // A burst is read at once, and then the socket is not read for a while: 200 more than a second's allowance.
  for (let i = 0; i < 250; i++) sender.send(String(i))
  await paused(1)
  sender.send('250')
  await reader.received(251)
  await paused(0)
  t.same(
    reader.messages.map((text) => JSON.parse(text).payload),
    Array.from({ length: 251 }, (_, i) => String(i))
  )
})

t.test('limits HTTP requests, but never to /health', async (t) => {
  const { http } = await build(t, { dbUri, httpRateLimit: 3 })
  const statuses = async (path: string) => {
    const all = []
    for (let i = 0; i < 5; i++) all.push((await fetch(`${http}${path}`)).status)
    return all
  }
  t.same(await statuses('/channels'), [401, 401, 401, 429, 429])
  t.same(await statuses('/health'), [200, 200, 200, 200, 200])
  t.same(await statuses('/metrics'), [200, 200, 200, 200, 200])
})

/** An identity provider: a JWK set over HTTP, which can be unavailable. */
async function provider(t: Test) {
  const pairs = new Map<string, ReturnType<typeof generateKeyPairSync>>()
  const state = { requests: 0, away: false }
  const server = createServer((_request, response) => {
    state.requests++
    if (state.away) return response.writeHead(500).end()
    const keys = [...pairs].map(([kid, { publicKey }]) => ({
      ...(publicKey as unknown as { export(options: object): object }).export({ format: 'jwk' }),
      kid,
      use: 'sig',
      alg: 'RS256'
    }))
    return response.setHeader('content-type', 'application/json').end(JSON.stringify({ keys }))
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  return {
    state,
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/jwks.json`,
    addKey: (kid: string) => pairs.set(kid, generateKeyPairSync('rsa', { modulusLength: 2048 }) as never),
    removeKey: (kid: string) => pairs.delete(kid),
    sign(kid: string, claims: object) {
      const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
      const input = `${part({ alg: 'RS256', kid })}.${part(claims)}`
      const { privateKey } = pairs.get(kid) as unknown as { privateKey: string }
      return `${input}.${signBytes('sha256', Buffer.from(input), privateKey).toString('base64url')}`
    }
  }
}

t.test('rotates keys: reads the set once for an unknown kid, and keeps the last valid set', async (t) => {
  const { state, url, addKey, sign } = await provider(t)
  addKey('one')
  const clock = heldClock(t)
  const { ws, http } = await build(t, { dbUri, jwtSecret: undefined, jwksUrl: url })
  const first = sign('one', { mode: 'r', admin: true })
  await open(t, `${ws}/a/${first}`)
  t.equal(state.requests, 1)
  clock.forward(5000)
  addKey('two')
  const second = sign('two', { mode: 'r' })
  await Promise.all(Array.from({ length: 5 }, () => open(t, `${ws}/a/${second}`)))
  t.equal(state.requests, 2)
  state.away = true
  await open(t, `${ws}/a/${second}`)
  addKey('three')
  for (let i = 0; i < 5; i++)
    t.equal((await refusal(t, `${ws}/a/${sign('three', { mode: 'r' })}`)).status, 401)
  t.equal(state.requests, 2)
  await open(t, `${ws}/a/${first}`)
  const listed = await fetch(`${http}/channels`, { headers: { authorization: `Bearer ${first}` } })
  t.equal(listed.status, 200)
  // A token that was signed with another key of the set.
  const forged = `${first.split('.').slice(0, 2).join('.')}.${second.split('.')[2]}`
  t.equal((await refusal(t, `${ws}/a/${forged}`)).status, 401)
})

t.test('answers 503 until the JWK set is available', async (t) => {
  const { state, url, addKey, sign } = await provider(t)
  addKey('one')
  state.away = true
  const clock = heldClock(t)
  const { ws } = await build(t, { dbUri, jwtSecret: undefined, jwksUrl: url })
  const jwt = sign('one', { mode: 'r' })
  t.equal((await refusal(t, `${ws}/a/${jwt}`)).status, 503)
  state.away = false
  clock.forward(5000)
  await open(t, `${ws}/a/${jwt}`)
})

t.test('audience and issuer are checked when set', async (t) => {
  const { ws } = await build(t, { dbUri, jwtAudience: 'here', jwtIssuer: 'https://issuer.example' })
  const url = (claims: object) => `${ws}/a/${token({ mode: 'r', ...claims })}`
  await open(t, url({ aud: 'here', iss: 'https://issuer.example' }))
  await open(t, url({ aud: ['there', 'here'], iss: 'https://issuer.example' }))
  for (const claims of [
    {},
    { aud: 'here' },
    { aud: 'there', iss: 'https://issuer.example' },
    { aud: [], iss: 'https://issuer.example' },
    { aud: 'here', iss: 'https://other.example' }
  ]) {
    t.equal((await refusal(t, url(claims))).status, 401)
  }
})

t.test('an abandoned handshake affects nobody else', async (t) => {
  const { ws, port, fastify } = await build(t, { dbUri, maxConnections: 50 })
  const path = `/a/${token({ mode: 'r' })}`
  for (let i = 0; i < 100; i++) {
    const socket = connect(port, '127.0.0.1')
    socket.on('error', () => {})
    await once(socket, 'connect')
    socket.write(
      `GET ${path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n`
    )
    if (i % 2) socket.resetAndDestroy()
    else socket.end()
  }
  const sockets = () =>
    new Promise<number>((resolve) => fastify.server.getConnections((_error, count) => resolve(count)))
  await until(async () => (await sockets()) === 0)
  await until(() => fastify.pgws.channels().length === 0)
  await Promise.all(Array.from({ length: 50 }, () => open(t, ws + path)))
})
