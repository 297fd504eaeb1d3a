import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import WebSocket from 'ws'
import { build, notify, open, token, until, withPostgres } from '../support/helper.js'
import { snippet } from '../support/pages.js'
import { root } from '../support/root.js'
import { SDKS, subscribed } from '../support/sdk.js'
import { BROWSER, end } from '../support/streams.js'

const { database } = await withPostgres(t)
const rw = token({ mode: 'rw' })

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}

const accepts = (port: number) =>
  new Promise<boolean>((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.destroy()
      resolve(true)
    })
    socket.on('error', () => resolve(false))
  })

/** nginx in front of a server, configured as in docs/operations.md. */
async function nginx(t: Test, upstream: number): Promise<number> {
  const folder = mkdtempSync(join(tmpdir(), 'pgws-nginx-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  // If root starts it, its workers run as another user.
  chmodSync(folder, 0o777)
  const port = await freePort()
  const site = snippet('docs/operations.md', 'proxy_pass')
    .replace('listen 80;', `listen 127.0.0.1:${port};`)
    .replace('127.0.0.1:3000', `127.0.0.1:${upstream}`)
  const configuration = join(folder, 'nginx.conf')
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
  writeFileSync(
    configuration,
    `daemon off;
pid ${folder}/pid;
error_log ${folder}/error.log;
events {}
http {
  access_log off;
  ${temporary.map((name) => `${name}_temp_path ${folder}/${name};`).join('\n  ')}
  ${site}
}
`
  )
  const child = spawn('nginx', ['-c', configuration, '-e', join(folder, 'error.log')], { stdio: 'ignore' })
  t.teardown(async () => {
    child.kill('SIGTERM')
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
  })
  await until(() => accepts(port))
  return port
}

t.test('compose.yaml mounts the configuration of the documentation', (t) => {
  const mounted = readFileSync(join(root, 'deploy/nginx.conf'), 'utf8')
  t.equal(mounted.replace('server:3000', '127.0.0.1:3000'), snippet('docs/operations.md', 'proxy_pass'))
  t.end()
})

t.test('websockets, event streams, the SDK and the control plane work behind nginx', async (t) => {
  const dbUri = await database()
  const server = await build(t, { dbUri })
  const port = await nginx(t, server.port)
  const http = `http://127.0.0.1:${port}`

  const socket = await open(t, `ws://127.0.0.1:${port}/chat/${rw}`)
  const stream = await fetch(`${http}/chat/${rw}`, { headers: { accept: 'text/event-stream' } })
  t.equal(stream.status, 200)
  const reader = stream.body!.getReader()
  const clients = (['websocket', 'sse', 'http_stream'] as const).map((transport) => {
    const scheme = transport === 'websocket' ? 'ws' : 'http'
    const endpoint = `${scheme}://127.0.0.1:${port}/connection/${transport}`
    const client = new SDKS['5.8']!([{ transport, endpoint }], {
      ...BROWSER,
      websocket: WebSocket,
      emulationEndpoint: `${http}/emulation`,
      token: rw
    } as never)
    t.teardown(() => end(client))
    const { subscription, got } = subscribed(client, 'chat')
    client.connect()
    return { subscription, got }
  })
  for (const { subscription } of clients) await subscription.ready()

  // One at a time, because a message in a buffer of nginx would not arrive.
  for (const n of [1, 2, 3]) {
    await notify(dbUri, JSON.stringify({ channel: 'chat', payload: n }))
    t.equal(JSON.parse((await socket.received(n))[n - 1]!).payload, n)
    for (let text = ''; !text.includes(`"payload":${n}`); ) {
      const { value, done } = await reader.read()
      if (done) throw new Error('the stream has ended')
      text += new TextDecoder().decode(value)
    }
    for (const { got } of clients) await until(() => got.length === n)
  }
  const published = await fetch(`${http}/publish`, {
    method: 'POST',
    headers: { authorization: `Bearer ${rw}`, 'content-type': 'application/json' },
    body: JSON.stringify({ channel: 'chat', payload: 'over HTTP' })
  })
  t.equal(published.status, 202)
  t.equal(JSON.parse((await socket.received(4))[3]!).payload, 'over HTTP')
  t.equal((await fetch(`${http}/health`)).status, 200)
  await reader.cancel()
})
