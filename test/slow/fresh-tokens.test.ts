import { generateKeyPairSync } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { refresh, run } from '../support/app.js'
import { open, query, SECRET, token, until } from '../support/helper.js'

const rw = token({ mode: 'rw' })

t.test(
  'on the embedded database, the page gets new tokens if the server has a key to sign them',
  async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'pgws-app-'))
    t.teardown(() => rmSync(folder, { recursive: true, force: true }))
    const embedded = async (environment: Record<string, string>) => {
      const app = await run(t, { PGWS_EMBEDDED_FOLDER: folder, ...environment })
      await until(() => /psql '/.test(app.output()) || app.child.exitCode !== null)
      const uri = /psql '([^']+)'/.exec(app.output())![1]!
      return { ...app, uri }
    }
    const end = async (app: Awaited<ReturnType<typeof embedded>>) => {
      app.child.kill('SIGTERM')
      t.equal(await app.exit, 0)
    }
    const claimsOf = (text: string) => JSON.parse(Buffer.from(text.split('.')[1]!, 'base64url').toString())
    const retention = async (uri: string) =>
      (await query(uri, 'select pattern, max_age::text, max_messages::int from pgws.retention')).rows
    const inSeconds = (seconds: number) => Math.floor(Date.now() / 1000) + seconds

    const app = await embedded({ PGWS_JWT_SECRET: SECRET, PGWS_HTTP_RATE_LIMIT: '100' })
    const claims = { mode: 'r', sub: 'me', channels: ['a'] }
    const answer = await refresh(app.http, token({ ...claims, exp: inSeconds(60) }))
    t.equal(answer.status, 200)
    t.equal(answer.headers.get('cache-control'), 'no-store')
    t.equal(answer.headers.get('x-ratelimit-limit'), '100')
    const fresh = ((await answer.json()) as { token: string }).token
    const { exp, iat: _, ...rest } = claimsOf(fresh)
    t.same(rest, claims)
    t.ok(Math.abs(exp - inSeconds(3600)) < 30)
    await open(t, `${app.ws}/a/${fresh}`)
    for (const bad of [
      'nonsense',
      token({ mode: 'r' }, `${SECRET}x`),
      token({ ...claims, exp: inSeconds(-1) })
    ]) {
      const refused = await refresh(app.http, bad)
      t.equal(refused.status, 401)
      t.equal(refused.headers.get('cache-control'), 'no-store')
      t.notMatch(await refused.text(), bad)
    }
    t.equal((await fetch(`${app.http}/token`, { method: 'POST' })).status, 401)
    await named(t, app.http, claimsOf)
    t.same(await retention(app.uri), [{ pattern: 'chat', max_age: '1 day', max_messages: 1000 }])
    await query(app.uri, "select pgws.unretain('chat'), pgws.retain('c*', '2 hours')")
    t.match(app.output(), /#token=eyJ/)
    await end(app)

    for (const [variable, value] of [
      ['PGWS_MODE_CLAIM', '.app_metadata.mode'],
      ['PGWS_CHANNELS_CLAIM', '.app_metadata.channels'],
      ['PGWS_JWT_ISSUER', 'https://login.example.org']
    ] as const) {
      const elsewhere = await embedded({ PGWS_JWT_SECRET: SECRET, [variable]: value })
      t.notMatch(elsewhere.output(), /eyJ/, 'prints no token that it would reject')
      t.match(elsewhere.output(), /Bearer <a token that PGWS_JWT_SECRET verifies>/)
      await end(elsewhere)
    }

    const { publicKey } = generateKeyPairSync('ed25519')
    const pem = publicKey.export({ type: 'spki', format: 'pem' }) as string
    const foreign = await embedded({ PGWS_JWT_SECRET: pem, PGWS_PRESENCE_CHANNELS: 'room:*' })
    t.equal((await refresh(foreign.http, fresh)).status, 404)
    t.equal((await fetch(`${foreign.http}/centrifuge.js`)).status, 200)
    t.same(await retention(foreign.uri), [{ pattern: 'c*', max_age: '02:00:00', max_messages: null }])
    await end(foreign)

    const ownFiles = await embedded({ PGWS_JWT_SECRET: SECRET, PGWS_ROOT_PATH: t.testdir() })
    t.equal((await refresh(ownFiles.http, fresh)).status, 404)
    const presence = await fetch(`${ownFiles.http}/channels/chat/presence`, {
      headers: { authorization: `Bearer ${rw}` }
    })
    t.equal(presence.status, 404)
    await end(ownFiles)
  }
)

/** A token of an administrator gets a name. Other tokens keep theirs. */
async function named(t: Test, http: string, claimsOf: (token: string) => object): Promise<void> {
  const ask = (given: string, body: string) =>
    fetch(`${http}/token`, {
      method: 'POST',
      headers: { authorization: `Bearer ${given}`, 'content-type': 'application/json' },
      body
    })
  const claims = { mode: 'rw', admin: true, exp: Math.floor(Date.now() / 1000) + 60 }
  const answer = await ask(token(claims), '{"sub":" Ann Smith "}')
  t.equal(answer.status, 200)
  const { token: fresh } = (await answer.json()) as { token: string }
  t.match(claimsOf(fresh), { ...claims, sub: 'Ann Smith' })
  const again = await ask(fresh, '{"sub":"Bob"}')
  t.match(claimsOf(((await again.json()) as { token: string }).token), { ...claims, sub: 'Bob' })
  const lasting = (await (await ask(token({ mode: 'rw', admin: true }), '{"sub":"Ann"}')).json()) as {
    token: string
  }
  t.notHas(claimsOf(lasting.token), { exp: Number })
  for (const others of [{ mode: 'rw' }, { mode: 'rw', sub: 'mallory', admin: false }]) {
    const refused = await ask(token(others), '{"sub":"Ann"}')
    t.equal(refused.status, 403)
    t.match(await refused.json(), { code: 'FST_PGWS_ADMIN_ONLY' })
  }
  for (const bad of [
    '{"sub":""}',
    '{"sub":" "}',
    '{"sub":5}',
    '[]',
    '"Ann"',
    '{"name":"Ann"}',
    `{"sub":"${'x'.repeat(101)}"}`
  ]) {
    const refused = await ask(token(claims), bad)
    t.equal(refused.status, 400, bad)
    t.match(await refused.json(), { code: 'FST_PGWS_BAD_QUERY' })
  }
}
