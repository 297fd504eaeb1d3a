import { existsSync, readFileSync } from 'node:fs'
import { connect } from 'node:net'
import t from 'tap'
import { run, started } from '../support/app.js'
import { SECRET, until, withPostgres } from '../support/helper.js'

/** More than the default backlog of Node.js, which is 511. */
const CLIENTS = 1000

const somaxconn = '/proc/sys/net/core/somaxconn'
const limit = existsSync(somaxconn) ? Number(readFileSync(somaxconn, 'utf8')) : 0
const options = limit > CLIENTS ? {} : { skip: 'this kernel does not let so many connections wait' }

t.test('no connection of 1,000 clients is dropped while the server accepts none', options, async (t) => {
  const { postgres } = await withPostgres(t)
  const app = await started(
    await run(t, { PGWS_DB_URI: postgres.uri, PGWS_JWT_SECRET: SECRET, PGWS_HOST: '127.0.0.1' })
  )
  app.child.kill('SIGSTOP')
  t.teardown(() => app.child.kill('SIGCONT'))
  let connected = 0
  for (let i = 0; i < CLIENTS; i++) {
    const socket = connect(app.port, '127.0.0.1', () => connected++)
    socket.on('error', () => {})
    t.teardown(() => socket.destroy())
  }
  await until(() => connected === CLIENTS)
  t.equal(connected, CLIENTS)
})
