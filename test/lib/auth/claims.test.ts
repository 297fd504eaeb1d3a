import t, { type Test } from 'tap'
import type { PgWebsocketsOptions } from '../../../index.js'
import { type Claims, tokenReader } from '../../../lib/auth/claims.js'
import { callerOf } from '../../../lib/auth/owner-functions.js'
import { resolveOptions } from '../../../lib/config/resolve-options.js'
import { errors } from '../../../lib/errors.js'
import { build, type Client, open, refusal, token, until, withPostgres } from '../../support/helper.js'

const { database } = await withPostgres(t)
const dbUri = await database()

async function get(http: string, path: string, claims: object, init: RequestInit = {}) {
  const headers = { ...init.headers, authorization: `Bearer ${token(claims)}` }
  const response = await fetch(http + path, { ...init, headers })
  return { status: response.status, body: (await response.json()) as Record<string, unknown> }
}

function publish(http: string, claims: object, channel: string) {
  const body = JSON.stringify({ channel, payload: 'hello' })
  return get(http, '/publish', claims, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body
  })
}

async function command(client: Client, id: number, what: object) {
  client.send(JSON.stringify({ id, ...what }))
  const answer = () => client.messages.map((text) => JSON.parse(text)).find((one) => one.id === id)
  await until(answer)
  return answer()
}

async function sdkClient(t: Test, ws: string, claims: object) {
  const client = await open(t, `${ws}/connection/websocket`)
  return { client, answer: await command(client, 1, { connect: { token: token(claims) } }) }
}

t.test('the subject of a token must be a string, in every protocol', async (t) => {
  const { ws, http, fastify } = await build(t, {
    dbUri,
    presenceChannels: '**',
    endpoints: [{ path: '/audience', channels: ['told'] }]
  })
  const malformed = [
    { sub: 5 },
    { sub: null },
    { sub: ['me'] },
    { sub: 'a\0b' },
    { sub: 'a\ud800' },
    { iss: 5 },
    { iss: {} }
  ]
  for (const claims of malformed) {
    const name = Object.keys(claims)[0]!
    const all = { mode: 'rw', admin: true, audiences: ['a'], ...claims }
    const error = { code: 'FST_PGWS_MALFORMED_CLAIMS', message: new RegExp(`^Malformed claims: "${name}" `) }
    const refused = await refusal(t, `${ws}/c/${token(all)}`)
    t.equal(refused.status, 403)
    t.match(JSON.parse(refused.body), error)
    const audience = { headers: { authorization: `Bearer ${token(all)}` } }
    t.match(JSON.parse((await refusal(t, `${ws}/audience`, audience)).body), error)
    const events = { headers: { accept: 'text/event-stream' } }
    for (const [path, init] of [
      ['/?channel=c', events],
      ['/channels', {}],
      ['/channels/c/presence', {}],
      ['/connections', {}]
    ] as const) {
      t.match(await get(http, path, all, init), { status: 403, body: error }, path)
    }
    t.match(await publish(http, all, 'c'), { status: 403, body: error })
    t.match((await sdkClient(t, ws, all)).answer, { error: { code: 103, message: error.message } })
  }
  t.same((await fastify.pgws.presence('c')).count, 0)

  // A refresh and a subscription token are checked, too.
  const { client } = await sdkClient(t, ws, { mode: 'r' })
  const bad = { mode: 'rw', sub: 5 }
  t.match(await command(client, 2, { refresh: { token: token(bad) } }), {
    error: { code: 103, message: /"sub"/ }
  })
  t.match(await command(client, 3, { publish: { channel: 'c', data: 1 } }), { error: { code: 103 } })
  const own = (claims: object) => ({ subscribe: { channel: 'c', token: token({ channel: 'c', ...claims }) } })
  t.match(await command(client, 4, own({ sub: 5 })), { error: { code: 103, message: /"sub"/ } })
  t.match(await command(client, 5, own({ client: 5 })), { error: { code: 103, message: /"client"/ } })
  t.match(await command(client, 6, own({ allow: [1] })), { error: { code: 103, message: /"allow"/ } })
  t.match((await sdkClient(t, ws, { subs: ['c'] })).answer, { error: { code: 103, message: /"subs"/ } })
})

t.test('a refresh with an unknown mode is rejected', async (t) => {
  const { ws } = await build(t, { dbUri })
  const { client } = await sdkClient(t, ws, { mode: 'r', channels: ['c'] })
  t.match(await command(client, 2, { subscribe: { channel: 'c' } }), { subscribe: {} })
  t.match(await command(client, 3, { refresh: { token: token({ mode: 'x' }) } }), {
    error: { code: 103, message: /^Unknown mode/ }
  })
  t.match(await command(client, 4, { presence_stats: { channel: 'd' } }), { error: { code: 103 } })
})

t.test('reads claims from the configured paths, in every protocol', async (t) => {
  const { ws, http } = await build(t, {
    dbUri,
    modeClaim: 'https://example.org/mode',
    channelsClaim: '.app_metadata.channels',
    channelPatternsClaim: '.app_metadata."channel patterns"',
    adminClaim: '.realm_access.roles'
  })
  const claims = {
    sub: 'me',
    'https://example.org/mode': 'rw',
    app_metadata: { channels: ['a', 'b'], 'channel patterns': ['room:*'] },
    realm_access: { roles: ['offline_access', 'admin'] }
  }
  const client = await open(t, `${ws}/${token(claims)}`)
  t.equal((await publish(http, claims, 'b')).status, 202)
  t.match(JSON.parse((await client.received(1))[0]!), { channel: 'b', payload: 'hello' })
  await open(t, `${ws}/room%3A7/${token(claims)}`)
  t.equal((await refusal(t, `${ws}/c/${token(claims)}`)).status, 403)
  t.equal((await get(http, '/connections', claims)).status, 200)
  const { client: sdk } = await sdkClient(t, ws, claims)
  t.match(await command(sdk, 2, { subscribe: { channel: 'a' } }), { subscribe: {} })
  t.match(await command(sdk, 3, { subscribe: { channel: 'c' } }), { error: { code: 103 } })

  // Claims at the default paths are ignored.
  const usual = {
    sub: 'me',
    mode: 'rw',
    channels: ['c'],
    channel: 'c',
    channel_patterns: ['**'],
    admin: true
  }
  const refused = await refusal(t, `${ws}/c/${token(usual)}`)
  t.match(refused.answer, /^Missing mode: the token needs a "https:\/\/example\.org\/mode" claim/)
  const mixed = { ...usual, ...claims }
  t.equal((await refusal(t, `${ws}/c/${token(mixed)}`)).status, 403)
  const noAdmin = { ...mixed, realm_access: { roles: ['user'] } }
  t.match(await get(http, '/connections', noAdmin), {
    status: 403,
    body: {
      message:
        'Only administrators may do this: the token needs the claim ".realm_access.roles": true, or a list with "admin"'
    }
  })

  // A refresh and a subscription token are read in the same way.
  t.match(
    await command(sdk, 4, { refresh: { token: token({ ...claims, app_metadata: { channels: ['c'] } }) } }),
    { refresh: {} }
  )
  await until(() => sdk.messages.some((text) => text.includes('"unsubscribe"')))
  t.match(await command(sdk, 5, { subscribe: { channel: 'c' } }), { subscribe: {} })
  const writeOnly = { sub: 'me', channel: 'd', 'https://example.org/mode': 'w' }
  t.match(await command(sdk, 6, { subscribe: { channel: 'd', token: token(writeOnly) } }), {
    error: { code: 103, message: /connection token, because it has "https:/ }
  })
})

t.test('a token without the configured channels claim allows no channel', async (t) => {
  for (const option of ['channelsClaim', 'channelPatternsClaim'] as const) {
    const { ws } = await build(t, { dbUri, [option]: '.app_metadata.names' })
    t.match((await refusal(t, `${ws}/c/${token({ mode: 'r' })}`)).answer, /^No allowed channels/)
    await open(t, `${ws}/c/${token({ mode: 'r', app_metadata: { names: 'c' } })}`)
    for (const names of [5, null, [5], { c: true }]) {
      const refused = await refusal(t, `${ws}/c/${token({ mode: 'r', app_metadata: { names } })}`)
      t.match(refused.answer, 'Malformed claims: ".app_metadata.names" must be a list of strings')
    }
  }
})

t.test('defaultMode is the mode of tokens that have none, and of no subscription token', async (t) => {
  const { ws, http } = await build(t, { dbUri, defaultMode: 'rw' })
  await open(t, `${ws}/c/${token({})}`)
  t.equal((await publish(http, {}, 'c')).status, 202)
  t.equal((await publish(http, { mode: 'r' }, 'c')).status, 403)
  t.match((await refusal(t, `${ws}/c/${token({ mode: 'x' })}`)).answer, /^Unknown mode/)
  // It reads one channel; as a connection token it would write to it, too.
  const own = { sub: 'me', channel: 'c' }
  t.equal((await publish(http, own, 'c')).status, 403)
  t.match((await refusal(t, `${ws}/c/${token(own)}`)).answer, /^Missing mode/)
  const { client } = await sdkClient(t, ws, { sub: 'me', channels: ['d'] })
  t.match(await command(client, 2, { publish: { channel: 'd', data: 1 } }), { publish: {} })
  t.match(await command(client, 3, { subscribe: { channel: 'c', token: token(own) } }), { subscribe: {} })
  t.match(await command(client, 4, { publish: { channel: 'c', data: 1 } }), { error: { code: 103 } })
})

t.test('uses the members of a list that are modes', async (t) => {
  const read = tokenReader({ modeClaim: '.realm_access.roles', defaultMode: 'r' })
  const modeOf = (roles: unknown) => read({ realm_access: { roles } }).mode
  t.same(modeOf(['offline_access', 'rw']), { read: true, write: true })
  t.same(modeOf(['w', 'x']), { read: false, write: true })
  t.same(modeOf(['w', 'r']), { read: true, write: true })
  t.same(modeOf('w'), { read: false, write: true })
  t.same(modeOf(['offline_access']), { read: true, write: false })
  t.equal(modeOf('offline_access'), 'unknown')
  t.equal(modeOf(null), 'unknown')
  t.throws(
    () => modeOf(['rw', 5]),
    new errors.MalformedClaims('".realm_access.roles" must be a list of strings')
  )
  t.equal(tokenReader({})({ mode: ['rw'] }).mode, 'unknown')
})

t.test('reads the role from a path, as PostgREST does', async (t) => {
  const roleOf = (roleClaim: string, claims: Claims) =>
    callerOf(tokenReader({ roleClaim })(claims), roleClaim).role
  const claims = {
    role: 'plain',
    'https://example.org/role': 'named',
    '.dot': 'unreachable',
    a: { b_1: [{ c: 'nested' }], 'x.y': 'quoted', $p: 'dollar' },
    roles: ['other', 5, 'app_reader', 'app_writer', 'x_app']
  }
  for (const [path, role] of [
    ['role', 'plain'],
    ['.role', 'plain'],
    ['https://example.org/role', 'named'],
    ['."https://example.org/role"', 'named'],
    ['.".dot"', 'unreachable'],
    ['.a.b_1[0].c', 'nested'],
    ['.a."x.y"', 'quoted'],
    ['.a.$p', 'dollar'],
    ['.roles[2]', 'app_reader'],
    ['.roles[?(@ == "app_writer")]', 'app_writer'],
    ['.roles[?(@ != "other")]', 'app_reader'],
    ['.roles[?(@ ^== "app_")]', 'app_reader'],
    ['.roles[?(@ ==^ "_app")]', 'x_app'],
    ['.roles[?(@ *== "write")]', 'app_writer']
  ] as const) {
    t.equal(roleOf(path, claims), role, path)
  }
  for (const path of [
    'none',
    '.roles',
    '.roles[1]',
    '.roles[9]',
    '.role[0]',
    '.a.none.c',
    'constructor',
    '.__proto__.constructor.name',
    '.roles[?(@ == "none")]'
  ]) {
    t.throws(() => roleOf(path, claims), new errors.RoleNotAllowed(), path)
  }
})

t.test('an invalid path or default mode is an error at the start', async (t) => {
  const resolve = (options: Partial<PgWebsocketsOptions>) =>
    resolveOptions({ dbUri: 'x', jwtSecret: 'x'.repeat(32), ...options })
  for (const name of ['modeClaim', 'channelsClaim', 'channelPatternsClaim', 'adminClaim', 'roleClaim']) {
    for (const path of [
      '.',
      '..a',
      '.a.',
      '.a[',
      '.a[x]',
      '.a b',
      '."a',
      '.a[-1]',
      '.a[?(@ == "x")].b',
      '.a[?(@ = "x")]'
    ]) {
      const variable = `PGWS_${name.replace(/[A-Z]/g, '_$&').toUpperCase()}`
      t.throws(
        () => resolve({ [name]: path, authorizeFunction: 'a.b' }),
        { message: new RegExp(`"${name}" \\(${variable}\\) must be the name of a claim, or a path`) },
        path
      )
    }
  }
  t.throws(() => resolve({ defaultMode: 'wr' }), {
    message: /"defaultMode" \(PGWS_DEFAULT_MODE\) must be r, w or rw/
  })
  t.equal(resolve({ modeClaim: '', defaultMode: '' }).modeClaim, undefined)
})
