import { execFile } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import pg from 'pg'
import t, { type Test } from 'tap'
import { migrate } from '../../lib/schema/migrate.js'
import { freePort } from '../support/app.js'
import { LISTEN_CHANNEL, open, SECRET, token } from '../support/helper.js'
import { type Block, blocksOf, PAGES } from '../support/pages.js'
import { createDatabase, testPostgres } from '../support/postgres.js'
import { root } from '../support/root.js'
import { Terminal } from '../support/terminal.js'

const ENGINE = 'it needs a container engine; test/package/deployment.test.ts runs its steps without one'
const NATS = 'it needs nats-server; test/services/nats-errors.test.ts and example-nats.test.ts run it'
const SYSTEMD = 'it needs systemd and root; test/package/deployment.test.ts installs and runs the unit'

/** Blocks of `sh` that are not run here, with the reason. */
const NOT_HERE: Record<string, string> = {
  'npm ci && npm start\n': 'it installs a checkout; the tests of the page start the server in the same way',
  'npm ci && npm test\n': 'it would run itself',
  'npm ci\nnpm test\n': 'it would run itself',
  'for name in POSTGRES_PASSWORD WEBSOCKETS_PASSWORD PGWS_JWT_SECRET; do\n  echo "$name=$(openssl rand -hex 32)" >> .env\ndone\ndocker compose up --build --detach\n':
    ENGINE,
  'docker compose exec server node dist/cli.js token --sub me --mode rw --channels chat\ndocker compose exec server node dist/cli.js doctor\n':
    ENGINE,
  'PGWS_TRUST_PROXY=uniquelocal docker compose --profile nginx up --build --detach\n': ENGINE,
  'npm install @nats-io/transport-node\nexport PGWS_BUS=tls://nats-1.example.org,nats-2.example.org\nexport PGWS_BUS_CREDENTIALS=@/run/secrets/nats\nnpx fastify-pg-websockets\n':
    NATS,
  'sh deploy/systemd/install.sh\n': SYSTEMD,
  'systemctl enable --now fastify-pg-websockets\n': SYSTEMD
}

// The pages create roles, which all databases of a cluster share.
const postgres = await testPostgres(t)
const database = () => createDatabase(postgres)

/** A folder with the package, as installed from the registry. */
const project = mkdtempSync(join(tmpdir(), 'pgws-docs-'))
t.teardown(() => rmSync(project, { recursive: true, force: true }))
await promisify(execFile)('npm', ['pack', '--silent', '--ignore-scripts', '--pack-destination', project], {
  cwd: root
})
const [tarball] = readdirSync(project)
const secretFile = join(project, 'jwt')
writeFileSync(secretFile, SECRET)

/** The environment of a reader's shell. */
function environment(port: number, more: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
  const env: NodeJS.ProcessEnv = {
    ...process.env,
    PGWS_HOST: '127.0.0.1',
    PGWS_PORT: String(port),
    FASTIFY_ADDRESS: '127.0.0.1',
    FASTIFY_PORT: String(port),
    ...more
  }
  // A reader's shell has no variables of this test's runner.
  for (const name of [
    'NODE_OPTIONS',
    'NODE_TEST_CONTEXT',
    ...Object.keys(env).filter((key) => /^npm_/i.test(key))
  ]) {
    delete env[name]
  }
  return env
}

/** A block with the reader's own database, port and secret. */
function theirs(code: string, dbUri: string, port: number): string {
  return code
    .replaceAll(/postgresql:\/\/(\w+)(?::[\w-]+)?@\w+(?::\d+)?\/app/g, (_, user) =>
      user === 'websockets' ? dbUri.replace('postgres@', 'websockets@') : dbUri
    )
    .replaceAll('localhost:3000', `127.0.0.1:${port}`)
    .replaceAll('@/run/secrets/jwt', `@${secretFile}`)
    .replaceAll('npm install fastify-pg-websockets', `npm install --prefer-offline ./${tarball}`)
}

const isServer = (code: string) =>
  /(?:\bnpx |node_modules\/\.bin\/)(?:fastify-pg-websockets|fastify start .*)\n$/.test(code)
const LISTENING = 'Server listening'

async function query(dbUri: string, text: string) {
  const client = new pg.Client(dbUri)
  await client.connect()
  try {
    return await client.query(text)
  } finally {
    await client.end()
  }
}

/** Removes the roles, because all databases share them, and each page may create the same ones. */
async function dropRoles(dbUri: string): Promise<void> {
  const { rows } = await query(
    dbUri,
    `select rolname from pg_roles where rolname !~ '^(pg|pgws)_|^postgres$'`
  )
  for (const { rolname } of rows) await query(dbUri, `drop owned by ${rolname}; drop role ${rolname}`)
}

t.test('README: your own database in five minutes, each line as printed', async (t) => {
  const dbUri = await database()
  const port = await freePort()
  const [install, schema, configure, sign, publish] = blocksOf('README.md')
    .filter(({ heading, language }) => heading === 'Use it with your database' && language === 'sh')
    .map(({ code }) => theirs(code, dbUri, port))
  const first = new Terminal(t, project, environment(port))
  await first.run(install!)
  await first.run(schema!)
  await first.start(configure!, LISTENING)

  const second = new Terminal(t, project, environment(port))
  const address = /http\S+/.exec(await second.run(sign!))![0]
  const page = await fetch(address)
  t.equal(page.status, 200)
  t.match(await page.text(), /<title>fastify-pg-websockets/)
  const jwt = new URLSearchParams(new URL(address).hash.slice(1)).get('token')
  const client = await open(t, `ws://127.0.0.1:${port}/chat/${jwt}?since=earliest`)
  await second.run(publish!)
  const messages = (await client.received(2)).map((text) => JSON.parse(text))
  t.match(messages, [
    { channel: 'chat', payload: 'hello from HTTP', claims: { sub: 'me' } },
    { channel: 'chat', payload: 'hello from SQL' }
  ])
  t.ok(
    messages.every(({ id }) => typeof id === 'string'),
    'the channel is durable'
  )
  const presence = await fetch(`http://127.0.0.1:${port}/channels/chat/presence`, {
    headers: { authorization: `Bearer ${jwt}` }
  })
  t.match(await presence.json(), { clients: [{ user: 'me' }] })
  t.match(await first.end(), /shutting down/)
  rmSync(join(project, '.env'))
  await dropRoles(dbUri)
})

t.test('the blocks that are not run exist', async (t) => {
  const codes = PAGES.flatMap(blocksOf).map(({ code }) => code)
  for (const code of Object.keys(NOT_HERE)) t.ok(codes.includes(code), code)
})

t.test('the SQL and shell of each page run as printed', async (t) => {
  // What the pages assume.
  for (const name of ['fastify-cli', 'socket.io', 'socket.io-adapter']) {
    symlinkSync(join(root, 'node_modules', name), join(project, 'node_modules', name), 'dir')
  }
  symlinkSync(join(root, 'node_modules/fastify-cli/cli.js'), join(project, 'node_modules/.bin/fastify'))
  for (const page of PAGES) {
    const blocks = blocksOf(page).filter(
      ({ heading, language, code }) =>
        (language === 'sql' || language === 'sh') &&
        !(code in NOT_HERE) &&
        !(page === 'README.md' && heading === 'Use it with your database')
    )
    if (blocks.length === 0) continue
    await t.test(page, (t) => runPage(t, blocks))
  }
})

async function runPage(t: Test, blocks: Block[]): Promise<void> {
  const dbUri = await database()
  const client = new pg.Client(dbUri)
  await client.connect()
  t.teardown(() => client.end().then(() => dropRoles(dbUri)))
  await migrate(client, LISTEN_CHANNEL)
  const port = await freePort()
  const env = environment(port, {
    PGWS_DB_URI: dbUri,
    PGWS_JWT_SECRET: SECRET,
    TOKEN: token({ mode: 'rw' }),
    ADMIN_TOKEN: token({ admin: true })
  })
  for (const { page, line, language, code } of blocks) {
    const text = theirs(code, dbUri, port)
    const name = `${page}:${line}`
    if (language === 'sql') {
      await t.resolves(client.query(text), name)
      continue
    }
    const server = new Terminal(t, project, env)
    if (isServer(text)) await server.start(text, LISTENING)
    else {
      const asked = code.includes('localhost:3000')
      if (asked) await server.start('npx fastify-pg-websockets', LISTENING)
      const terminal = new Terminal(t, project, env)
      if (code.startsWith('curl -N')) await readStream(terminal, text, dbUri)
      else await terminal.run(text)
      if (!asked) {
        t.pass(name)
        continue
      }
    }
    // fastify-cli ends it without output.
    t.match(await server.end(), code.includes('fastify start') ? LISTENING : /shutting down/, name)
  }
}

/** Reads a stream until its first message, because it does not end by itself. */
async function readStream(terminal: Terminal, code: string, dbUri: string): Promise<void> {
  const message = JSON.stringify({ channel: 'chat', payload: 'for the stream' })
  let arrived = false
  const reading = terminal.start(code, 'for the stream').finally(() => {
    arrived = true
  })
  // Nothing shows when the stream has joined its channel.
  while (!arrived) {
    await query(dbUri, `select pg_notify('${LISTEN_CHANNEL}', '${message}')`)
    await sleep(200)
  }
  await reading
  await terminal.end()
}
