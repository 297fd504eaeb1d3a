import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { CLI, freePort } from '../support/app.js'
import { open, SECRET, token, until, withPostgres } from '../support/helper.js'
import { root } from '../support/root.js'

const { database } = await withPostgres(t)

/** A folder in which npx finds both commands, as after `npm install`. */
const project = mkdtempSync(join(tmpdir(), 'pgws-npx-'))
t.teardown(() => rmSync(project, { recursive: true, force: true }))
const bin = join(project, 'node_modules/.bin')
mkdirSync(bin, { recursive: true })
chmodSync(CLI, 0o755)
symlinkSync(CLI, join(bin, 'fastify-pg-websockets'))
symlinkSync(join(root, 'node_modules/fastify-cli/cli.js'), join(bin, 'fastify'))

const commands: Record<string, (port: number) => string[]> = {
  'fastify-pg-websockets': () => [],
  fastify: (port) => [
    ...['start', '--options', '--log-level', 'info', '-a', '127.0.0.1', '-p', String(port)],
    join(root, 'dist/app.js')
  ]
}

for (const [name, args] of Object.entries(commands)) {
  t.test(`SIGTERM to npx ends "npx ${name}" and its child processes in order`, async (t) => {
    const port = await freePort()
    const environment = {
      PATH: process.env.PATH,
      HOME: project,
      PGWS_DB_URI: await database(),
      PGWS_JWT_SECRET: SECRET,
      PGWS_HOST: '127.0.0.1',
      PGWS_PORT: String(port)
    }
    const child = spawn('npx', ['--no-install', name, ...args(port)], {
      cwd: project,
      env: environment,
      detached: true
    })
    t.teardown(() => {
      try {
        process.kill(-child.pid!, 'SIGKILL')
      } catch {
        // All of them have ended.
      }
    })
    let output = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output += chunk))
    await until(() => output.includes('Server listening') || child.exitCode !== null)
    const client = await open(t, `ws://127.0.0.1:${port}/a/${token({ mode: 'r' })}`)
    const closed = client.closed()
    child.kill('SIGTERM')
    t.equal((await closed).code, 1001, output)
    // The pipe closes when the last process that holds it has ended.
    await once(child.stdout, 'close')
    await t.rejects(fetch(`http://127.0.0.1:${port}/health`))
  })
}
