import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { startExample } from '../support/example.js'
import { open } from '../support/helper.js'
import { root } from '../support/root.js'

const run = promisify(execFile)

t.test('the example "sessions": users log in, chat in their rooms, and log out', async (t) => {
  const example = await startExample(t, 'sessions')
  const [address] = example.addresses()
  const { host } = new URL(address!)
  const page = await (await fetch(address!)).text()
  for (const [, script] of page.matchAll(/src="([^"]+)"/g)) {
    t.equal((await fetch(`${address}/${script}`)).status, 200, script!)
  }

  const post = (path: string, body: object, cookie = '') =>
    fetch(address + path, {
      method: 'POST',
      headers: { 'content-type': 'application/json', cookie },
      body: JSON.stringify(body)
    })
  const login = async (name: string) => {
    const response = await post('/login', { name, password: `${name}-demo` })
    t.same(response.status, 200)
    return response.headers.getSetCookie()[0]!.split(';')[0]!
  }
  const tokenOf = async (cookie: string) => (await fetch(`${address}/token`, { headers: { cookie } })).text()

  t.equal((await post('/login', { name: 'alice', password: 'guess' })).status, 401)
  t.equal((await fetch(`${address}/token`)).status, 401)
  const [alice, bob] = [await login('alice'), await login('bob')]
  const inLobby = async (cookie: string) => {
    const token = await tokenOf(cookie)
    return open(t, `ws://${host}/?channel=room:lobby`, { headers: { authorization: `Bearer ${token}` } })
  }
  const sender = await inLobby(alice)
  const reader = await inLobby(bob)
  sender.send('hello')
  const message = JSON.parse((await reader.received(1))[0]!)
  t.match(message, { channel: 'room:lobby', payload: 'hello', claims: { sub: 'alice' } })
  t.notOk('channels' in message.claims, 'shows no other claim of the token')

  t.equal((await post('/logout', {}, bob)).status, 204)
  t.equal((await reader.closed()).code, 4001)
  t.equal((await fetch(`${address}/me`, { headers: { cookie: bob } })).status, 401)
  await example.stop()

  const env: NodeJS.ProcessEnv = { ...process.env, NODE_OPTIONS: '' }
  delete env.NODE_TEST_CONTEXT
  const { stdout } = await run(process.execPath, ['--test'], { cwd: join(root, 'examples/sessions'), env })
  t.match(stdout, /pass 4\n.*fail 0/s, 'its own tests pass')
})
