// Memory and CPU of connections that do nothing, beside a bare `ws` server: node bench/idle.js [connections]
import { fork } from 'node:child_process'
import { createHmac } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { startEmbeddedPostgres } from '../dist/lib/embedded-postgres.js'

const here = dirname(fileURLToPath(import.meta.url))
const SECRET = 'the secret of the benchmark only'
const connections = Number(process.argv[2] ?? 10_000)
const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url')
function token(i) {
  const input = `${part({ alg: 'HS256' })}.${part({ mode: 'rw', sub: `user-${i}`, exp: Math.floor(Date.now() / 1000) + 3600 })}`
  return `${input}.${createHmac('sha256', SECRET).update(input).digest('base64url')}`
}
const paths = Array.from({ length: connections }, (_, i) => `/channel-${i % 100}/${token(i)}`)
const folder = mkdtempSync(join(tmpdir(), 'pgws-bench-'))
const postgres = await startEmbeddedPostgres({ folder, settings: { fsync: 'off' } })

async function usage(child) {
  const answer = once(child, 'message')
  child.send('usage')
  return (await answer)[0].usage
}

try {
  for (let pair = 0; pair < Number(process.argv[3] ?? 3); pair++) {
    for (const server of ['bare', 'ours']) {
      const child = fork(join(here, 'servers', `${server}.js`), {
        env: { ...process.env, DB_URI: postgres.uri, SECRET },
        execArgv: ['--expose-gc', '--import', join(here, 'servers', 'measure.js')]
      })
      const [{ port }] = await once(child, 'message')
      const client = fork(join(here, 'readers.js'))
      // A first lot, so that code and pools are there, and only connections are counted.
      client.send({ port, paths: paths.slice(0, 1000), messages: 1 })
      await once(client, 'message')
      const before = await usage(child)
      client.send({ port, paths: paths.slice(0, connections), messages: 1 })
      await once(client, 'message')
      const after = await usage(child)
      const per = (after.rss - before.rss) / connections / 1024
      const cpu = (after.cpu - before.cpu) / connections
      console.log(`${server}: ${per.toFixed(1)} KB and ${(cpu * 1000).toFixed(0)} µs of CPU a connection`)
      client.kill()
      child.kill('SIGKILL')
      await new Promise((resolve) => setTimeout(resolve, 500))
    }
  }
} finally {
  await postgres.stop()
  for (const path of [folder, dirname(postgres.dataFolder), postgres.socketFolder])
    rmSync(path, { recursive: true, force: true })
}
