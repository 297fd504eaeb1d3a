import { generateKeyPairSync, sign as signBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import fastifyJwt from '@fastify/jwt'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import pgWebsockets, { type PgWebsocketsOptions } from '../../../index.js'
import { build, open, refusal, SECRET, until, withPostgres } from '../../support/helper.js'
import { blocksOf } from '../../support/pages.js'
import { runFragment } from '../../support/run-fragment.js'
import { sdk, subscribed } from '../../support/sdk.js'

const { database } = await withPostgres(t)
const dbUri = await database()
const blocks = blocksOf('docs/identity-providers.md')

/** The code of a provider's recipe in docs/identity-providers.md. */
function recipe(provider: string): string {
  const [block, ...more] = blocks.filter(({ heading }) => heading === provider)
  if (block === undefined || more.length > 0) throw new Error(`${provider} needs one recipe`)
  return block.code
}

/** The options with which a recipe registers the plugin. */
async function optionsOf(provider: string): Promise<PgWebsocketsOptions> {
  let given: PgWebsocketsOptions | undefined
  const fastify = { register: async (_: unknown, options: PgWebsocketsOptions) => (given = options) }
  await runFragment(recipe(provider), { fastify, pgWebsockets, dbUri })
  return given!
}

/** A provider's JWK set, served at the provider's path, and its signature. */
async function provider(t: Test, url: string, alg: 'RS256' | 'ES256') {
  const { privateKey, publicKey } =
    alg === 'RS256'
      ? generateKeyPairSync('rsa', { modulusLength: 2048 })
      : generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const kid = 'key-1'
  const keys = [
    // Keycloak's set contains an encryption key, too.
    { kty: 'RSA', kid: 'enc', use: 'enc', alg: 'RSA-OAEP', n: 'AQAB', e: 'AQAB' },
    { ...publicKey.export({ format: 'jwk' }), kid, use: 'sig', alg }
  ]
  const { pathname } = new URL(url)
  const server = createServer((request, response) => {
    if (request.url !== pathname) response.statusCode = 404
    response.setHeader('content-type', 'application/json').end(JSON.stringify({ keys }))
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}${pathname}`,
    sign(claims: object): string {
      const input = `${part({ alg, typ: 'JWT', kid })}.${part(claims)}`
      const key = alg === 'RS256' ? privateKey : { key: privateKey, dsaEncoding: 'ieee-p1363' as const }
      return `${input}.${signBytes('sha256', Buffer.from(input), key).toString('base64url')}`
    }
  }
}

const now = Math.floor(Date.now() / 1000)
const times = { iat: now, exp: now + 3600 }

interface Issued {
  alg: 'RS256' | 'ES256'
  /** A token as the provider issues it to a user without any settings. */
  stranger: Record<string, unknown>
  /** What the recipe adds for a user who may read and write `room:7`. */
  member: Record<string, unknown>
  admin?: Record<string, unknown>
  /** Claims that tokens for other applications do not have. */
  own: Record<string, unknown>
}

const providers: Record<string, Issued> = {
  Auth0: {
    alg: 'RS256',
    own: { aud: ['https://other.example.org', 'https://example.eu.auth0.com/userinfo'] },
    stranger: {
      iss: 'https://example.eu.auth0.com/',
      sub: 'auth0|507f1f77bcf86cd799439011',
      aud: ['https://realtime.example.org', 'https://example.eu.auth0.com/userinfo'],
      ...times,
      scope: 'openid profile email',
      azp: 'my_client_id'
    },
    member: { 'https://example.org/mode': 'rw', 'https://example.org/channels': ['room:7'] }
  },
  Keycloak: {
    alg: 'RS256',
    own: { iss: 'https://login.example.org/realms/other' },
    stranger: {
      ...times,
      jti: 'onrtac:5f2c1c5e-6b0a-4a4a-9e0b-1f7a9d1f0c11',
      iss: 'https://login.example.org/realms/app',
      aud: ['realtime', 'account'],
      sub: '2d3c1e0a-9a53-4b7e-8d1c-6f1f4f1b7a55',
      typ: 'Bearer',
      azp: 'web',
      sid: '0f4c7f5e-8f3e-4f0e-9d57-3c1b2a1d4e5f',
      acr: '1',
      'allowed-origins': ['https://example.org'],
      realm_access: { roles: ['default-roles-app', 'offline_access', 'uma_authorization'] },
      resource_access: { account: { roles: ['manage-account', 'view-profile'] } },
      scope: 'openid email profile',
      email_verified: true,
      preferred_username: 'alice',
      email: 'alice@example.org'
    },
    member: { realm_access: { roles: ['default-roles-app', 'rw'] }, channels: ['room:7'] },
    admin: { realm_access: { roles: ['default-roles-app', 'admin'] } }
  },
  Supabase: {
    alg: 'ES256',
    own: { aud: 'anon' },
    stranger: {
      aal: 'aal1',
      amr: [{ method: 'password', timestamp: now }],
      app_metadata: { provider: 'email', providers: ['email'] },
      aud: 'authenticated',
      email: 'alice@example.org',
      ...times,
      is_anonymous: false,
      iss: 'https://abcdefghijklmnopqrst.supabase.co/auth/v1',
      phone: '',
      role: 'authenticated',
      session_id: '4b938a09-5372-4177-a314-cfa292099ea2',
      sub: '5a36c7b2-0d3f-4f5b-9f1d-2d7a8c1e6b90',
      // Users can edit these themselves.
      user_metadata: { mode: 'rw', channels: ['room:7'], admin: true }
    },
    member: {
      app_metadata: { provider: 'email', providers: ['email'], mode: 'rw', channels: ['room:7'] }
    }
  },
  Cognito: {
    alg: 'RS256',
    own: { iss: 'https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_Other' },
    stranger: {
      sub: '4a8c1f5e-0031-70a1-9f0b-2e7d6c5b4a39',
      iss: 'https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_Example',
      version: 2,
      client_id: '1example23456789',
      origin_jti: 'aaaaaaaa-bbbb-cccc-dddd-example',
      event_id: '64f513be-32db-42b0-b78e-b02127b4f463',
      token_use: 'access',
      scope: 'openid profile email',
      auth_time: now,
      ...times,
      jti: 'aaaaaaaa-bbbb-cccc-dddd-eeeeeeee',
      username: 'alice'
    },
    member: { 'cognito:groups': ['customers', 'rw'], channels: ['room:7'] },
    admin: { 'cognito:groups': ['admin'] }
  },
  Firebase: {
    alg: 'RS256',
    own: { aud: 'other-project' },
    stranger: {
      iss: 'https://securetoken.google.com/my-project',
      aud: 'my-project',
      auth_time: now,
      user_id: 'q3Jc2v9fYhR0',
      sub: 'q3Jc2v9fYhR0',
      ...times,
      email: 'alice@example.org',
      email_verified: false,
      firebase: { identities: { email: ['alice@example.org'] }, sign_in_provider: 'password' }
    },
    member: { mode: 'rw', channels: ['room:7'] },
    admin: { admin: true }
  }
}

for (const [name, { alg, stranger, member, admin, own }] of Object.entries(providers)) {
  t.test(`the recipe for ${name} accepts the tokens that it issues`, async (t) => {
    const options = await optionsOf(name)
    const { url, sign } = await provider(t, options.jwksUrl!, alg)
    const { ws, http, fastify } = await build(t, { jwtSecret: undefined, ...options, jwksUrl: url })

    const user = sign({ ...stranger, ...member })
    const client = await open(t, `${ws}/${user}`)
    client.send('hello')
    const { claims, ...message } = JSON.parse((await client.received(1))[0]!)
    t.match(message, { channel: 'room:7', payload: 'hello' })
    t.same(Object.keys(claims), ['sub', 'message_delivered_at'], 'others see no address, name or group')
    t.match(await refusal(t, `${ws}/room%3A8/${user}`), { status: 403 })
    t.match(await refusal(t, `${ws}/room%3A7/${sign(stranger)}`), { status: 403 })
    t.match(await refusal(t, `${ws}/room%3A7/${sign({ ...stranger, ...member, ...own })}`), { status: 401 })

    const browser = sdk(t, ws, { getToken: async () => sign({ ...stranger, ...member }) })
    const { got } = subscribed(browser, 'room:7')
    browser.connect()
    await until(() => fastify.pgws.channels().find(({ connections }) => connections === 2))
    await fastify.pgws.publish('room:7', 'for both')
    await until(() => got.length === 1)

    const list = async (claims: object) => {
      const headers = { authorization: `Bearer ${sign({ ...stranger, ...claims })}` }
      return (await fetch(`${http}/connections`, { headers })).status
    }
    t.equal(await list(member), 403)
    if (admin !== undefined) t.equal(await list(admin), 200)
  })
}

t.test('each recipe is tested', async (t) => {
  t.same(
    blocks.map(({ heading }) => heading),
    [...Object.keys(providers), 'A login of your own']
  )
})

t.test('the recipe for your own login works as printed', async (t) => {
  const fastify = Fastify()
  t.teardown(() => fastify.close())
  fastify.decorateRequest('session', null as never)
  fastify.addHook('onRequest', async (request) => {
    const user = request.headers['x-user']
    Object.assign(request, { session: { user: user && { id: Number(user), rooms: [7] } } })
  })
  const scope = { fastify, fastifyJwt, pgWebsockets, dbUri, jwtSecret: SECRET }
  await runFragment(recipe('A login of your own'), scope)
  await fastify.listen({ port: 0, host: '127.0.0.1' })
  const { port } = fastify.server.address() as AddressInfo
  const http = `http://127.0.0.1:${port}`
  t.equal((await fetch(`${http}/token`)).status, 401)
  const jwt = await (await fetch(`${http}/token`, { headers: { 'x-user': '5' } })).text()
  const client = await open(t, `ws://127.0.0.1:${port}/${jwt}`)
  t.equal(client.webSocket.readyState, WebSocket.OPEN)
  client.send('hello')
  t.match(JSON.parse((await client.received(1))[0]!), { channel: 'room:7', claims: { sub: '5' } })
  t.match(await refusal(t, `ws://127.0.0.1:${port}/room%3A8/${jwt}`), { status: 403 })
})
