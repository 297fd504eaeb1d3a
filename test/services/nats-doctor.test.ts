import { PassThrough } from 'node:stream'
import t from 'tap'
import { examine } from '../../commands/doctor/index.js'
import { freePort } from '../support/app.js'
import { install, SECRET, withPostgres } from '../support/helper.js'
import { NatsServer } from '../support/nats.js'

const { database } = await withPostgres(t)

/** What the doctor says of the bus. */
async function doctor(dbUri: string, environment: Record<string, string>): Promise<string> {
  const out = new PassThrough({ encoding: 'utf8' })
  await examine({ PGWS_JWT_SECRET: SECRET, PGWS_DB_URI: dbUri, ...environment }, out)
  const lines = String(out.read()).split('\n')
  return lines.filter((line) => / bus /.test(line)).join('\n')
}

t.test('the doctor checks whether NATS can be used', async (t) => {
  const user = 'user: pgws, password: "right-secret"'
  const users = (permission: string) =>
    `authorization { users: [ { ${user}, permissions: { publish: "${permission}", subscribe: "pgws.>" } } ] }`
  const server = await NatsServer.start(t, users('pgws.>'))
  const dbUri = await database()
  await install(dbUri)
  const PGWS_BUS = server.url
  const PGWS_BUS_CREDENTIALS = 'pgws:right-secret'
  t.equal(await doctor(dbUri, {}), '')
  t.match(
    await doctor(dbUri, { PGWS_BUS, PGWS_BUS_CREDENTIALS }),
    /^OK .*NATS is there, and allows what nodes do below "pgws\.[0-9a-f]{16}\.>"$/
  )
  t.match(await doctor(dbUri, { PGWS_BUS }), /^error .*PGWS_BUS_CREDENTIALS\) is required/)
  t.match(
    await doctor(dbUri, { PGWS_BUS, PGWS_BUS_CREDENTIALS: 'pgws:wrong-secret' }),
    /^error (?!.*secret).*PGWS_BUS_CREDENTIALS\).* does not accept/
  )
  t.match(
    await doctor(dbUri, { PGWS_BUS: `nats://127.0.0.1:${await freePort()}` }),
    /^error .*PGWS_BUS: no NATS server can be used: .*ECONNREFUSED/
  )
  t.match(await doctor(await database(), { PGWS_BUS }), /^error .*PGWS_BUS needs the schema "pgws"/)
  server.configure(users('other.>'))
  await server.restart()
  t.match(
    await doctor(dbUri, { PGWS_BUS, PGWS_BUS_CREDENTIALS }),
    /^error .*PGWS_BUS_CREDENTIALS\).*allow it to publish and subscribe to "pgws\.[0-9a-f]{16}\.>"/
  )
})
