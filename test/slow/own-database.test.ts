import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { CLI, run } from '../support/app.js'
import { open, until } from '../support/helper.js'

/** A replacement for curl, which not every machine has. It understands the printed commands. */
const CURL = join(tmpdir(), `pgws-curl-${process.pid}.cjs`)
writeFileSync(
  CURL,
  `const args = process.argv.slice(2); const headers = {}; let method, body, url
for (let i = 0; i < args.length; i++) {
  if (args[i] === '-X') method = args[++i]
  else if (args[i] === '-H') { const [name, value] = args[++i].split(/: (.*)/); headers[name] = value }
  else if (args[i] === '-d') body = args[++i]
  else url = args[i]
}
fetch(url, { method, headers, body }).then((response) => process.exit(response.status === 202 ? 0 : 1))`
)
t.teardown(() => rmSync(CURL))

t.test('without a database, uses its own; the page, token, curl and SQL work as printed', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'pgws-app-'))
  const app = await run(t, { PGWS_EMBEDDED_FOLDER: folder })
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  await until(() => /psql '/.test(app.output()) || app.child.exitCode !== null)
  const address = /http:\/\/localhost:\d+\/#\S+/.exec(app.output())![0]
  const page = await fetch(address.split('#')[0]!)
  t.equal(page.status, 200)
  // An address of this machine other than that of "localhost". macOS has none.
  if (process.platform === 'linux') await t.rejects(fetch(`http://127.0.0.2:${app.port}/health/live`))
  t.match(page.headers.get('content-type'), /html/)
  const printed = new URLSearchParams(address.split('#')[1])
  const client = await open(t, `${app.ws}/${printed.get('channel')}/${printed.get('token')}`)
  const curl = /^ {4}(curl .*)$/m.exec(app.output())![1]!
  execFileSync('/bin/sh', ['-c', curl.replace(/^curl /, `${process.execPath} ${CURL} `)])
  const sql = /^ {4}npm run sql -- (".*")$/m.exec(app.output())![1]!
  execFileSync('/bin/sh', ['-c', `"${process.execPath}" "${CLI}" sql ${sql}`], {
    env: { PGWS_EMBEDDED_FOLDER: folder }
  })
  const payloads = (await client.received(2)).map((text) => JSON.parse(text).payload)
  t.same(payloads, ['Hello from curl', 'Hello from SQL'])
  app.child.kill('SIGTERM')
  t.equal(await app.exit, 0)
  await until(
    () => !execFileSync('ps', ['-eo', 'args'], { encoding: 'utf8' }).includes(`${folder.slice(-6)}/data`)
  )

  // After a restart, it accepts the page that is still open.
  const again = await run(t, { PGWS_EMBEDDED_FOLDER: folder, PGWS_HOST: '0.0.0.0' })
  await until(() => /psql '/.test(again.output()) || again.child.exitCode !== null)
  const channels = await fetch(`${again.http}/channels`, {
    headers: { authorization: `Bearer ${printed.get('token')}` }
  })
  t.equal(channels.status, 200)
  t.match(again.output(), `http://127.0.0.1:${again.port}/#`, 'prints an address that it listens on')
  again.child.kill('SIGTERM')
  t.equal(await again.exit, 0)
})
