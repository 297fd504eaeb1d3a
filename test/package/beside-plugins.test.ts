import { execFile } from 'node:child_process'
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { SECRET, withPostgres } from '../support/helper.js'
import { root } from '../support/root.js'

const run = promisify(execFile)

/** Plugins that applications often use. */
const PACKAGES = [
  ...[
    'autoload',
    'compress',
    'cookie',
    'cors',
    'env',
    'formbody',
    'helmet',
    'http-proxy',
    'jwt',
    'multipart'
  ],
  ...['postgres', 'rate-limit', 'sensible', 'session', 'static', 'swagger', 'swagger-ui', 'under-pressure'],
  'websocket'
].map((name) => `@fastify/${name}`)

t.test('works with common plugins, each alone and all together, in both orders', async (t) => {
  const { database } = await withPostgres(t)
  const project = mkdtempSync(join(tmpdir(), 'pgws-beside-'))
  t.teardown(() => rmSync(project, { recursive: true, force: true }))
  await run('npm', ['pack', '--silent', '--ignore-scripts', '--pack-destination', project], { cwd: root })
  writeFileSync(join(project, 'package.json'), '{"private":true,"type":"module"}')
  const packages = ['./fastify-pg-websockets-0.1.0.tgz', 'fastify@5', 'pg', 'ws', 'mercurius', 'graphql@16']
  await run('npm', ['install', '--silent', '--prefer-offline', ...packages, ...PACKAGES], { cwd: project })
  cpSync(join(root, 'test/fixtures/beside.mjs'), join(project, 'beside.mjs'))

  const env = { ...process.env, DB_URI: await database(), JWT_SECRET: SECRET, NODE_OPTIONS: '' }
  const { stdout } = await run(process.execPath, ['beside.mjs'], { cwd: project, env, timeout: 300_000 })
  const results = stdout.trim().split('\n')
  for (const line of results) {
    const { name, order, prefix, error, lines } = JSON.parse(line)
    t.equal(error, undefined, `${order} ${name}, with the prefix "${prefix}"`, { lines })
  }
  t.equal(results.length, 84)
})
