import { once } from 'node:events'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { nkeys } from '@nats-io/transport-node'
import t, { type Test } from 'tap'
import { type PgWebsocketsOptions, resolveOptions } from '../../lib/config/index.js'
import { freePort } from '../support/app.js'
import { FaultProxy } from '../support/fault-proxy.js'
import { SECRET, until } from '../support/helper.js'
import { NatsServer } from '../support/nats.js'
import { NatsOperator } from '../support/nats-accounts.js'
import { busBefore, busOf } from '../support/nats-bus.js'
import { blocksOf, textOf } from '../support/pages.js'
import { root } from '../support/root.js'

const fixture = (name: string) => join(root, 'test/fixtures', name)
const ca = textOf('test/fixtures/certificate.pem')
const invalid = (message: RegExp) => ({ code: 'FST_PGWS_INVALID_OPTION', message })

/** What the options of the plugin mean for a bus. */
function resolved(given: Partial<PgWebsocketsOptions>) {
  const { bus, busCredentials, busCa } = resolveOptions({
    dbUri: 'postgresql://',
    jwtSecret: SECRET,
    ...given
  })
  return { options: { servers: bus!, credentials: busCredentials, ca: busCa } }
}

/** Whether a bus hears itself. */
async function works(t: Test, server: { url: string }, credentials?: string, more: object = {}) {
  const { bus, texts, lines } = await busOf(t, server, { credentials, ...more })
  await bus.join('a')
  await bus.announce([{ channel: 'a', position: 1, previous: 0, beat: 0, text: 'heard' }])
  await until(() => texts().length === 1)
  t.same(lines, [], 'nothing is logged')
  await bus.close()
}

async function fails(t: Test, server: { url: string }, credentials: string | undefined, message: RegExp) {
  const { bus, start, lines } = busBefore(t, server, { credentials })
  await t.rejects(start(), invalid(message))
  t.notOk(bus.up)
  if (credentials !== undefined) {
    const error = await start().catch((error) => error)
    t.notOk(`${error}${lines}`.includes(credentials.slice(-30)), 'the error does not repeat the credentials')
  }
}

t.test('accepts a token, a user with a password, and the seed of an nkey', async (t) => {
  const withToken = await NatsServer.start(t, 'authorization { token: "a-long-secret-token" }')
  await works(t, withToken, 'a-long-secret-token')
  await fails(
    t,
    withToken,
    'another-secret-token',
    /PGWS_BUS_CREDENTIALS\): the NATS server at 127.* does not accept/
  )
  await fails(t, withToken, undefined, /PGWS_BUS_CREDENTIALS\) is required by the NATS server/)
  const user = nkeys.createUser()
  const seed = Buffer.from(user.getSeed()).toString()
  const other = Buffer.from(nkeys.createUser().getSeed()).toString()
  const withUsers = await NatsServer.start(
    t,
    `authorization { users: [ { nkey: ${user.getPublicKey()} }, { user: pgws, password: "secret:password" } ] }`
  )
  await works(t, withUsers, seed)
  await works(t, withUsers, 'pgws:secret:password')
  await fails(t, withUsers, other, /PGWS_BUS_CREDENTIALS\): .* does not accept/)
  await fails(t, withUsers, 'pgws:secret:wrong', /PGWS_BUS_CREDENTIALS\): .* does not accept/)
  await fails(t, withUsers, undefined, /PGWS_BUS_CREDENTIALS\) is required/)
})

t.test(
  'a creds file: permissions, another operator, and a revocation while the bus is connected',
  async (t) => {
    const operator = new NatsOperator()
    const server = await NatsServer.start(t, operator.configuration)
    const allow = { pub: { allow: ['pgws.test.>'] }, sub: { allow: ['pgws.test.>'] } }
    const credentials = operator.creds(allow)
    await works(t, server, credentials)
    await fails(t, server, new NatsOperator().creds(), /PGWS_BUS_CREDENTIALS\): .* does not accept/)
    await fails(t, server, operator.creds({}, 1), /PGWS_BUS_CREDENTIALS\): .* does not accept/)
    const mute = operator.creds({ ...allow, pub: { allow: ['other.>'] } })
    await fails(
      t,
      server,
      mute,
      /does not allow this user to publish to "pgws\.test\..*subscribe to "pgws\.test\.>"/
    )

    const { bus, count, lines } = await busOf(t, server, { credentials })
    operator.revokeAll()
    server.configure(operator.configuration)
    server.reload()
    await until(() => count('interrupted') === 1)
    await until(() => lines.some((line) => /PGWS_BUS_CREDENTIALS\): .* does not accept/.test(line)))
    t.notOk(bus.up)
    t.equal(count('restored'), 0)
    await fails(t, server, credentials, /PGWS_BUS_CREDENTIALS\): .* does not accept/)
    t.notOk(lines.some((line) => line.includes(credentials.slice(100, 130))))
  }
)

t.test('a missing permission is an error that names it', async (t) => {
  const users = (publish: string, subscribe: string) =>
    `authorization { users: [ { user: a, password: b, permissions: { publish: ${publish}, subscribe: ${subscribe} } } ] }`
  const server = await NatsServer.start(t, users('"pgws.test.>"', '"pgws.test.>"'))
  await works(t, server, 'a:b')
  const { bus, count, lines } = await busOf(t, server, { credentials: 'a:b' })
  await bus.join('a')
  const cases: [publish: string, subscribe: string, RegExp][] = [
    ['"other.>"', '"pgws.test.>"', /publish to "pgws\.test\./],
    ['["pgws.test.b", "pgws.test.n.>"]', '"pgws.test.>"', /publish to "pgws\.test\.m\.-"/],
    ['["pgws.test.m.>", "pgws.test.n.>"]', '"pgws.test.>"', /publish to "pgws\.test\.b"/],
    ['"pgws.test.>"', '"pgws.test.m.>"', /subscribe to "pgws\.test\.[bn]/],
    ['"pgws.test.>"', '["pgws.test.b", "pgws.test.n.>"]', /subscribe to "pgws\.test\.m\.-"/]
  ]
  for (const [publish, subscribe, expected] of cases) {
    server.configure(users(publish, subscribe))
    await server.restart()
    await fails(t, server, 'a:b', expected)
    await fails(
      t,
      server,
      'a:b',
      /PGWS_BUS_CREDENTIALS.*allow it to publish and subscribe to "pgws\.test\.>"/
    )
  }
  // The one that was up tries again, and says why it is down.
  await until(() => lines.some((line) => line.includes('does not allow this user')))
  t.notOk(bus.up)
  server.configure(users('"pgws.test.>"', '"pgws.test.>"'))
  await server.restart()
  await until(() => count('restored') === 1)
})

t.test('a permission that is revoked while the bus is connected interrupts it', async (t) => {
  const users = (publish: string) =>
    `authorization { users: [ { user: a, password: b, permissions: { publish: ${publish}, subscribe: "pgws.test.>" } } ] }`
  const server = await NatsServer.start(t, users('"pgws.test.>"'))
  const { bus, count, lines } = await busOf(t, server, { credentials: 'a:b' })
  server.configure(users('"pgws.test.n.>"'))
  server.reload()
  await until(async () => {
    await bus.announce([{ channel: 'a', position: 1, previous: 0, beat: 0, text: 'x' }]).catch(() => {})
    return count('interrupted') > 0
  })
  await until(() => lines.some((line) => /does not allow this user to publish to/.test(line)))
  t.notOk(bus.up)
})

t.test(
  'docs/several-nodes.md: the configuration for production allows what nodes do, and no more',
  async (t) => {
    const [block] = blocksOf('docs/several-nodes.md').filter(({ language }) => language === 'conf')
    const configuration = block!.code
      .replace(/^listen:.*\n/m, '')
      .replace('/etc/nats/server.pem', fixture('certificate.pem'))
      .replace('/etc/nats/server.key', fixture('key.pem'))
    t.notMatch(configuration, /listen|etc\/nats\//)
    const server = await NatsServer.start(t, configuration)
    const { options } = resolved({
      bus: `tls://localhost:${server.port}`,
      busCredentials: 'pgws:a long random text',
      busCa: `@${fixture('certificate.pem')}`
    })
    for (const prefix of ['pgws.0123456789abcdef', 'pgws.shop']) {
      await works(t, server, undefined, { ...options, prefix: () => prefix })
    }
    const outside = busBefore(t, server, { ...options, prefix: () => 'other' })
    await t.rejects(
      outside.start(),
      invalid(/PGWS_BUS_CREDENTIALS.*allow it to publish and subscribe to "other\.>"/)
    )
    const stranger = busBefore(t, server, { ...options, credentials: undefined })
    await t.rejects(stranger.start(), invalid(/PGWS_BUS_CREDENTIALS\) is required/))
  }
)

t.test('rejects an untrusted certificate, another host name, and a server without TLS', async (t) => {
  const tls = `tls { cert_file: "${fixture('certificate.pem')}", key_file: "${fixture('key.pem')}" }`
  const server = await NatsServer.start(t, tls)
  const servers = (host: string) => ({ servers: [`tls://${host}:${server.port}`] })
  await works(t, server, undefined, { ca, ...servers('localhost') })
  await works(t, server, undefined, { ca, ...servers('127.0.0.1') })
  const untrusted = busBefore(t, server, servers('localhost'))
  await t.rejects(
    untrusted.start(),
    invalid(/PGWS_BUS_CA\): the certificate of the NATS server at localhost.*_CERT/)
  )
  const other = busBefore(t, server, { ca: textOf('test/fixtures/other.pem'), ...servers('localhost') })
  await t.rejects(other.start(), invalid(/PGWS_BUS_CA\): the certificate/))
  const elsewhere = await FaultProxy.start(t, server.port, '127.0.0.2')
  const named = busBefore(t, server, { ca, servers: [`tls://127.0.0.2:${elsewhere.port}`] })
  await t.rejects(named.start(), invalid(/PGWS_BUS_CA\): the certificate.*ERR_TLS_CERT_ALTNAME_INVALID/))
  const plain = await NatsServer.start(t)
  const noTls = busBefore(t, plain, { ca, servers: [`tls://localhost:${plain.port}`] })
  await t.rejects(noTls.start(), invalid(/PGWS_BUS\): the NATS server at localhost:\d+ does not offer TLS/))
})

t.test('rejects a max_payload that is too small, and what is not a NATS server', async (t) => {
  const small = await NatsServer.start(t, 'max_payload: 8000')
  await fails(
    t,
    small,
    undefined,
    /PGWS_BUS\).*takes messages of up to 8000 bytes, and nodes need 16384.*max_payload/
  )
  const server = createServer((socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const { port } = server.address() as { port: number }
  await fails(
    t,
    { url: `nats://127.0.0.1:${port}` },
    undefined,
    /PGWS_BUS\): what listens at 127.* is no NATS server/
  )
})

t.test('the start succeeds without a server, and the bus connects when there is one', async (t) => {
  const server = await NatsServer.configure(t)
  const { bus, start, count, lines } = busBefore(t, server, {
    servers: [server.url, `nats://127.0.0.1:${await freePort()}`]
  })
  await start()
  t.notOk(bus.up)
  await bus.join('a')
  t.match(lines, [/the bus \(PGWS_BUS\) is not connected, trying again: .*127\.0\.0\.1:\d+: .*ECONNREFUSED/])
  await server.start()
  await until(() => count('restored') === 1)
  t.ok(bus.up)
  t.equal(count('interrupted'), 0)
  t.match(lines.at(-1), /the bus \(PGWS_BUS\) is connected/)
})

t.test('servers that do not answer leave no connections behind', async (t) => {
  const proxy = await FaultProxy.start(t, (await NatsServer.start(t)).port)
  proxy.mode = 'silence'
  const { bus, start, lines } = busBefore(t, { url: `nats://127.0.0.1:${proxy.port}` })
  await start()
  t.notOk(bus.up)
  t.match(lines, [/no answer within/])
  await bus.close()
  await until(() => proxy.connections === 0)
})
