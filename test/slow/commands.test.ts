import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { keepSecret } from '../../lib/embedded-postgres/index.js'
import { findPlaces, prepareHome } from '../../lib/embedded-postgres/places.js'
import { VERSION } from '../../lib/version.js'
import { CLI, freePort, run, serve, started } from '../support/app.js'
import { command } from '../support/command.js'
import { open, SECRET, until, withPostgres } from '../support/helper.js'

const { database } = await withPostgres(t)
const secret = { PGWS_JWT_SECRET: SECRET }

/** What the server prints at a terminal until it listens. */
async function atTerminal(t: Test, environment: Record<string, string>): Promise<string> {
  const command = `'${process.execPath}' '${CLI}'`
  // macOS has another script(1) than Linux.
  const args =
    process.platform === 'linux' ? ['-qefc', command, '/dev/null'] : ['-q', '/dev/null', 'sh', '-c', command]
  const child = spawn('script', args, {
    cwd: t.testdir(),
    env: { PATH: process.env.PATH, TERM: 'xterm', ...environment }
  })
  // This ends the terminal, which ends the server.
  t.teardown(() => child.kill('SIGKILL'))
  let output = ''
  child.stdout.on('data', (chunk) => {
    output += chunk
  })
  await until(() => output.includes('Server listening') || child.exitCode !== null)
  return output
}

const claimsOf = (token: string) => JSON.parse(Buffer.from(token.split('.')[1]!, 'base64url').toString())

/** Runs the command `token`. Returns the token and its claims. */
async function minted(t: Test, args: string[], environment: Record<string, string> = secret) {
  const { code, printed, output } = await command(t, ['token', ...args], environment)
  t.equal(code, 0, output)
  const token = printed.trimEnd()
  t.match(token, /^[\w-]+\.[\w-]+\.[\w-]+$/, 'standard output contains only the token')
  return { token, claims: claimsOf(token), output }
}

t.test('--version prints only the version', async (t) => {
  for (const word of ['--version', '-v']) {
    t.match(await command(t, [word]), { code: 0, output: `${VERSION}\n` })
  }
})

t.test(
  '--help explains each command; an unknown command prints the same help and exits with 2',
  async (t) => {
    const { code, printed } = await command(t, ['--help'])
    t.equal(code, 0)
    const names = [...printed.matchAll(/^ {2}fastify-pg-websockets ([a-z]+)/gm)].map(([, name]) => name!)
    t.same(names, ['migrate', 'sql', 'token', 'doctor'])
    for (const name of names) {
      const help = await command(t, [name, '--help'])
      t.match(help, { code: 0, printed: `Usage: fastify-pg-websockets ${name}` })
      t.match(await command(t, ['help', name]), { code: 0, printed: help.printed })
    }
    for (const [args, problem] of [
      [['tokn'], /^there is no command "tokn"/],
      [['--port', '3000'], /^there is no command "--port"/],
      [['constructor'], /^there is no command "constructor"/],
      [['migrate', 'now'], /^unexpected argument: now/],
      [['sql'], /^no SQL is given/],
      [['sql', 'select 1', 'select 2'], /^unexpected argument/]
    ] as const) {
      const refused = await command(t, [...args])
      t.match(refused, { code: 2, printed: '', output: problem }, args.join(' '))
      t.match(refused.output, /\n\nUsage:/)
    }
  }
)

t.test('a failed start prints the reason once, and what to set', async (t) => {
  const uri = { PGWS_DB_URI: await database(), ...secret }
  const [option, port] = await Promise.all([
    command(t, [], { ...uri, PGWS_DEFAULT_MODE: 'x' }),
    serve(t, uri).then((taken) => command(t, [], { ...uri, PGWS_PORT: String(taken.port) }))
  ])
  t.equal(option.code, 1)
  t.match(
    option.output,
    /^fastify-pg-websockets could not start: option "defaultMode" \(PGWS_DEFAULT_MODE\) must be/m
  )
  t.equal(port.code, 1)
  t.match(
    port.output,
    /^fastify-pg-websockets could not start: PGWS_PORT: port \d+ is already in use by another program: set PGWS_PORT to a free one$/m
  )
})

t.test('the log is readable text at a terminal, and JSON elsewhere', async (t) => {
  const environment = { PGWS_DB_URI: await database(), ...secret }
  const piped = await started(await run(t, environment))
  for (const line of piped.output().trim().split('\n'))
    t.match(JSON.parse(line), { level: Number, msg: String })
  const output = await atTerminal(t, { ...environment, PGWS_PORT: String(await freePort()) })
  t.match(output, /^\S*\[\d\d:\d\d:\d\d\S*\] .*INFO.*: .*Server listening at http:\/\//m)
  t.notMatch(output, /\{"level"|"pid"/)
})

t.test(
  'the start with the embedded database prints its progress, and at the end its addresses; other commands find it',
  async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'pgws-embedded-'))
    const embedded = { PGWS_EMBEDDED_FOLDER: folder }
    const places = findPlaces(folder)
    const app = await run(t, embedded)
    t.teardown(async () => {
      app.child.kill('SIGTERM')
      await app.exit
      for (const path of [folder, places.home, places.sockets]) rmSync(path, { recursive: true, force: true })
    })
    await until(() => /psql .*\n\n$/.test(app.output()) || app.child.exitCode !== null)
    const lines = app.output().split('\n')
    const heading = lines.findIndex((line) => line.includes('is running on an embedded PostgreSQL'))
    const [log, welcome] = [lines.slice(0, heading), lines.slice(heading)]
    t.ok(log.findIndex((line) => line.includes('creating an embedded database')) >= 0)
    t.match(log.at(-2), /Server listening/)
    t.same(
      welcome.filter((line) => line.startsWith('{')),
      [],
      'no log line separates the addresses'
    )
    const { token } = await minted(t, ['--mode', 'rw', '--channels', 'chat'], embedded)
    await open(t, `${app.ws}/chat/${token}`)
    t.match(await command(t, ['sql', 'select 1 as one'], embedded), { code: 0, printed: /one/ })
    const { code, output } = await command(t, ['doctor'], embedded)
    t.equal(code, 0, output)
    t.match(output, /\nall is well\n$/)
  }
)

t.test('sql accepts a statement that begins with a comment', async (t) => {
  const { code, printed } = await command(t, ['sql', '-- a comment\nselect 1 as one'], {
    PGWS_DB_URI: await database()
  })
  t.equal(code, 0)
  t.match(printed, /one/)
})

t.test('sql and migrate read the connection string from a file, as the server does', async (t) => {
  const file = join(t.testdir(), 'uri')
  writeFileSync(file, `${await database()}\n`)
  t.match(await command(t, ['migrate'], { PGWS_DB_URI: `@${file}` }), { code: 0, printed: /^Installed/ })
  t.match(await command(t, ['sql', 'select 1'], { PGWS_LISTENER_URI: `@${file}` }), { code: 0 })
})

t.test('token prints a token that the server accepts, with the requested lifetime', async (t) => {
  const server = await serve(t, { PGWS_DB_URI: await database(), ...secret })
  const before = Math.floor(Date.now() / 1000)
  const { token, claims, output } = await minted(t, [
    ...['--sub', 'ann', '--mode', 'rw', '--channels', 'room:7,room:8', '--channels', 'lobby'],
    ...['--patterns', 'user:ann:*', '--claims', '{"name": "Ann"}', '--expires', '2h']
  ])
  t.match(claims, {
    sub: 'ann',
    mode: 'rw',
    channels: ['room:7', 'room:8', 'lobby'],
    channel_patterns: ['user:ann:*'],
    name: 'Ann'
  })
  t.equal(claims.exp - claims.iat, 7200)
  t.ok(claims.iat >= before)
  t.equal(claims.admin, undefined)
  t.equal(output.trimEnd(), token)
  await open(t, `${server.ws}/room:7/${token}`)
  await open(t, `${server.ws}/user:ann:inbox/${token}`)
  await t.rejects(open(t, `${server.ws}/room:9/${token}`), { message: /^refused with 403/ })

  const admin = await minted(t, ['--admin', '--expires', 'never'])
  t.same(Object.keys(admin.claims).sort(), ['admin', 'iat'])
  const headers = { authorization: `Bearer ${admin.token}` }
  t.equal((await fetch(`${server.http}/channels`, { headers })).status, 200)

  const { claims: hour, output: noted } = await minted(t, ['--mode', 'r'])
  t.equal(hour.exp - hour.iat, 3600)
  t.match(noted, /Note: this token allows every channel/)
})

t.test('token writes claims to the configured paths', async (t) => {
  const environment = {
    ...secret,
    PGWS_MODE_CLAIM: '.app_metadata.mode',
    PGWS_CHANNELS_CLAIM: 'https://example.org/channels',
    PGWS_ADMIN_CLAIM: '.roles[0]',
    PGWS_JWT_AUDIENCE: 'realtime',
    PGWS_JWT_ISSUER: 'https://example.org/'
  }
  const server = await serve(t, { PGWS_DB_URI: await database(), ...environment })
  const args = ['--mode', 'rw', '--channels', 'a', '--claims', '{"app_metadata": {"team": 1}}']
  const { token, claims } = await minted(t, args, environment)
  t.match(claims, {
    aud: 'realtime',
    iss: 'https://example.org/',
    app_metadata: { team: 1, mode: 'rw' },
    'https://example.org/channels': ['a']
  })
  await open(t, `${server.ws}/a/${token}`)
  await t.rejects(open(t, `${server.ws}/b/${token}`), { message: /^refused with 403/ })
  const admin = await command(t, ['token', '--admin'], environment)
  t.match(admin, { code: 2, printed: '', output: /--admin: \.roles\[0\] is a place in a list/ })
})

t.test(
  'token signs with a secret in base64, from a file, from a JWK, and of the embedded database',
  async (t) => {
    const uri = await database()
    const bytes = Buffer.from(`${SECRET}ÿ`)
    const folder = t.testdir({ secret: `${SECRET}\n` })
    const k = bytes.toString('base64url')
    const configured: Record<string, string>[] = [
      { PGWS_JWT_SECRET: bytes.toString('base64'), PGWS_JWT_SECRET_BASE64: 'true' },
      { PGWS_JWT_SECRET: `@${join(folder, 'secret')}` },
      { PGWS_JWT_SECRET: JSON.stringify({ kty: 'oct', alg: 'HS512', k }) }
    ]
    for (const environment of configured) {
      const { token } = await minted(t, ['--mode', 'rw'], environment)
      const server = await serve(t, { PGWS_DB_URI: uri, ...environment })
      await open(t, `${server.ws}/a/${token}`)
    }
    // In the folder where the server stores its own secret.
    const embedded = { PGWS_EMBEDDED_FOLDER: mkdtempSync(join(tmpdir(), 'pgws-embedded-')) }
    t.match(await command(t, ['token', '--mode', 'r'], embedded), {
      code: 1,
      output: /start the server once/
    })
    const places = findPlaces(embedded.PGWS_EMBEDDED_FOLDER)
    prepareHome(places)
    t.teardown(() => {
      for (const path of [embedded.PGWS_EMBEDDED_FOLDER, places.home, places.sockets])
        rmSync(path, { recursive: true, force: true })
    })
    const kept = keepSecret(places.home)
    const { token } = await minted(t, ['--mode', 'r'], embedded)
    const server = await serve(t, { PGWS_DB_URI: uri, PGWS_JWT_SECRET: kept })
    await open(t, `${server.ws}/a/${token}`)
  }
)

t.test('token says what is missing, and never prints a secret', async (t) => {
  const jwk = { kty: 'OKP', crv: 'Ed25519', x: '11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo' }
  const uri = { PGWS_DB_URI: 'postgresql://ann:geheim@localhost/none' }
  const cases: [string[], Record<string, string>, number, RegExp][] = [
    [[], secret, 2, /--mode is required/],
    [['--mode', 'x'], secret, 2, /--mode must be r, w or rw/],
    [['--mod', 'r'], secret, 2, /Unknown option '--mod'/],
    [['--mode', 'r', 'extra'], secret, 2, /Unexpected argument 'extra'/],
    [['--mode', 'r', '--expires', '1w'], secret, 2, /--expires must be a number with s, m, h or d/],
    [['--mode', 'r', '--expires', '0s'], secret, 2, /--expires must be/],
    [['--mode', 'r', '--channels', ''], secret, 2, /--channels names nothing/],
    [['--mode', 'r', '--claims', '[]'], secret, 2, /--claims must be a JSON object/],
    [['--claims', '{"channels": "a"}'], secret, 2, /the server would refuse this token: Malformed claims/],
    [['--mode', 'r', '--claims', '{"exp": 1}'], secret, 2, /would refuse this token: Token expired/],
    [['--mode', 'r'], uri, 1, /PGWS_JWT_SECRET is not set/],
    [
      ['--mode', 'r'],
      { ...uri, PGWS_JWKS_URL: 'https://example.org/jwks' },
      1,
      /has public keys only.*identity provider/
    ],
    [['--mode', 'r'], { PGWS_JWKS_URL: 'https://example.org/jwks' }, 1, /has public keys only/],
    [['--mode', 'r'], { PGWS_JWT_SECRET: JSON.stringify(jwk) }, 1, /PGWS_JWT_SECRET is a public key/],
    [['--mode', 'r'], { PGWS_JWT_SECRET: '{"k": "geheim"}' }, 1, /PGWS_JWT_SECRET\) is JSON, but/],
    [['--mode', 'r'], { PGWS_JWT_SECERT: 'geheim' }, 1, /did you mean PGWS_JWT_SECRET/]
  ]
  await Promise.all(
    cases.map(async ([args, environment, code, problem]) => {
      const refused = await command(t, ['token', ...args], environment)
      t.match(refused, { code, printed: '', output: problem }, args.join(' '))
      t.notMatch(refused.output, /geheim|reallyreally/)
    })
  )
})
