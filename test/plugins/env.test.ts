import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { originHost } from '../../lib/config/listen-address.js'
import { resolveOptions } from '../../lib/config/resolve-options.js'
import { readTrustProxy } from '../../lib/config/trust-proxy.js'
import { registerEnv } from '../../plugins/env.js'

function read(t: Test, environment: NodeJS.ProcessEnv) {
  const fastify = Fastify() as FastifyInstance
  t.teardown(() => fastify.close())
  return registerEnv(fastify, environment)
}

t.test('row 34: the variables have the defaults of postgres-websockets', async (t) => {
  t.match(await read(t, { PGWS_DB_URI: 'postgresql://', PGWS_JWT_SECRET: 'secret' }), {
    dbUri: 'postgresql://',
    rootPath: undefined,
    host: '*4',
    port: 3000,
    listenChannel: 'postgres-websockets-listener',
    metaChannel: undefined,
    jwtSecret: 'secret',
    jwtSecretBase64: false,
    poolSize: 10,
    retries: 5,
    checkListenerInterval: 0,
    certificateFile: undefined,
    keyFile: undefined
  })
})

t.test('an empty value means unset, booleans may have any case, and texts are not changed', async (t) => {
  const config = await read(t, {
    PGWS_JWT_SECRET: ' kept ',
    PGWS_PORT: '',
    PGWS_JWT_SECRET_BASE64: 'TRUE',
    PGWS_DOCUMENTATION: 'False',
    PGWS_CHECK_LISTENER_INTERVAL: '500'
  })
  t.match(config, { port: 3000, jwtSecret: ' kept ', jwtSecretBase64: true, documentation: false })
  t.equal(config.checkListenerInterval, 500)
  for (const value of ['1', 'yes', 'on']) {
    await t.rejects(read(t, { PGWS_JWT_SECRET_BASE64: value }), {
      message: /PGWS_JWT_SECRET_BASE64 must be true or false/
    })
  }
  for (const value of ['1.5', '-1', '1e400', 'x']) {
    await t.rejects(read(t, { PGWS_CHECK_LISTENER_INTERVAL: value }), {
      message: /whole number from 0 to /
    })
  }
})

t.test('a database without a secret is an error: there is no default secret', async (t) => {
  await t.rejects(read(t, { PGWS_DB_URI: 'postgresql://' }), {
    message: /PGWS_JWT_SECRET \(or PGWS_JWKS_URL\) is required/
  })
})

t.test('a variable within two edits of a known one is an error that names the known one', async (t) => {
  const cases: [string, string][] = [
    ['PGWS_DB_URL', 'PGWS_DB_URI'],
    ['PGWS_JWT_SECRETS', 'PGWS_JWT_SECRET'],
    ['PGWS_ALOWED_ORIGIN', 'PGWS_ALLOWED_ORIGINS'],
    ['PGWS_CHECK_LISTENER_INTREVAL', 'PGWS_CHECK_LISTENER_INTERVAL'],
    ['PGWS_PORTS', 'PGWS_PORT']
  ]
  for (const [wrong, right] of cases) {
    await t.rejects(read(t, { [wrong]: 'x' }), {
      message: new RegExp(`${wrong} is unknown: did you mean (.* or )?${right}\\?`)
    })
    await read(t, { [wrong]: '' })
  }
})

t.test('other unknown variables cause one warning, and those of Kubernetes none', async (t) => {
  const service = (prefix: string, port: number) => ({
    [`${prefix}_SERVICE_HOST`]: '10.0.0.1',
    [`${prefix}_SERVICE_PORT`]: String(port),
    [`${prefix}_SERVICE_PORT_HTTP`]: String(port),
    [`${prefix}_PORT_${port}_TCP`]: `tcp://10.0.0.1:${port}`,
    [`${prefix}_PORT_${port}_TCP_PROTO`]: 'tcp',
    [`${prefix}_PORT_${port}_TCP_PORT`]: String(port),
    [`${prefix}_PORT_${port}_TCP_ADDR`]: '10.0.0.1'
  })
  const lines: string[] = []
  const fastify = Fastify({ logger: { stream: { write: (line: string) => lines.push(line) } } })
  t.teardown(() => fastify.close())
  await registerEnv(fastify as unknown as FastifyInstance, {
    ...service('PGWS', 3000),
    ...service('PGWS_DB', 5432),
    PGWS_DB_PORT: 'tcp://10.0.0.1:5432',
    PGWS_OF_A_NEWER_VERSION: 'geheim',
    PGWS_ANOTHER_NEW_ONE: 'x'
  })
  t.equal(lines.length, 1)
  t.match(JSON.parse(lines[0]!), { level: 40, msg: /PGWS_OF_A_NEWER_VERSION, PGWS_ANOTHER_NEW_ONE$/ })
  t.notMatch(lines[0], /geheim|SERVICE|TCP/)
  for (const [variable, name] of [
    ['PGWS_PORT', 'pgws'],
    ['PGWS_METRICS_PORT', 'pgws-metrics']
  ] as const) {
    await t.rejects(read(t, { [variable]: 'tcp://10.0.0.1:3000' }), {
      message: new RegExp(
        `${variable} holds the address of a service .* "${name}".*enableServiceLinks: false`
      )
    })
  }
})

t.test('an invalid value is an error that names the variable', async (t) => {
  for (const value of [
    'yes',
    '1',
    '10.0.0.1, proxy.example.org',
    '10.0.0.0/33',
    '10.0.0.1/',
    '::1/129',
    ','
  ]) {
    await t.rejects(read(t, { PGWS_TRUST_PROXY: value }), { message: /PGWS_TRUST_PROXY must be true, false/ })
  }
  for (const value of [
    'True',
    'false',
    '10.0.0.1',
    'fd00::/8, 10.0.0.0/255.0.0.0',
    'loopback,192.168.0.0/16'
  ]) {
    await read(t, { PGWS_TRUST_PROXY: value })
    // Fastify accepts all of these.
    const trustProxy = readTrustProxy(value)!
    await Fastify({ trustProxy }).close()
  }
  await t.rejects(read(t, { PGWS_METRICS_PORT: '3000' }), {
    message: /PGWS_METRICS_PORT must not be PGWS_PORT \(3000\)/
  })
  await t.rejects(read(t, { PGWS_PORT: '9000', PGWS_METRICS_PORT: ' 9000' }), {
    message: /PGWS_METRICS_PORT/
  })
  await read(t, { PGWS_PORT: '0', PGWS_METRICS_PORT: '0' })
  for (const jwksUrl of ['login.example.org', 'ftp://example.org', 'https://user:geheim@example.org/jwks']) {
    const error = t.throws(() => resolveOptions({ dbUri: 'x', jwksUrl }), {
      message: /PGWS_JWKS_URL\) must be a URL with https: or http:, and without a user or password/
    }) as Error
    t.notMatch(error.message, /geheim/)
  }
  for (const envelopeClaims of ['None', 'ALL', 'none,sub', ['all', 'sub']]) {
    t.throws(() => resolveOptions({ dbUri: 'x', jwtSecret: 'x', envelopeClaims }), {
      message: /PGWS_ENVELOPE_CLAIMS\) must be all, none/
    })
  }
})

t.test('with the embedded database, the server listens only on localhost by default', async (t) => {
  t.equal((await read(t, {})).host, 'localhost')
  t.equal((await read(t, { PGWS_HOST: '*' })).host, '*')
  t.equal((await read(t, { PGWS_DB_URI: 'postgresql://', PGWS_JWT_SECRET: 'secret' })).host, '*4')
})

t.test('the printed address leads to this server', async (t) => {
  const at = (address: string, port = 3000) => ({ address, port, family: '' })
  const both = [{ address: '127.0.0.1' }, { address: '::1' }]
  t.equal(originHost([at('127.0.0.1'), at('::1')], both), 'localhost:3000')
  t.equal(originHost([at('127.0.0.1')], [{ address: '127.0.0.1' }]), 'localhost:3000')
  // Another process may listen on [::1]:3000.
  t.equal(originHost([at('127.0.0.1')], both), '127.0.0.1:3000')
  t.equal(originHost([at('127.0.0.1'), at('::1', 3001)], both), '127.0.0.1:3000')
  t.equal(originHost([at('0.0.0.0')], both), '127.0.0.1:3000')
  t.equal(originHost([at('::')], both), '[::1]:3000')
  t.equal(originHost([at('192.168.1.5')], []), '192.168.1.5:3000')
})
