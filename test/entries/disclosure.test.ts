import { join } from 'node:path'
import t, { type Test } from 'tap'
import { FaultProxy } from '../support/fault-proxy.js'
import { build, query, refusal, token, withPostgres } from '../support/helper.js'

const { postgres, database } = await withPostgres(t)
const rw = token({ mode: 'rw' })
const socket = join(postgres.socketFolder, '.s.PGSQL.5432')

async function publish(http: string): Promise<{ status: number; text: string }> {
  const response = await fetch(`${http}/publish`, {
    method: 'POST',
    headers: { authorization: `Bearer ${rw}`, 'content-type': 'application/json' },
    body: '{"channel":"a","payload":1}'
  })
  return { status: response.status, text: await response.text() }
}

/** A server whose pool and listener connect through a proxy, as a separate role. */
async function hidden(t: Test, role: string) {
  const dbUri = await database()
  await query(dbUri, `create role ${role} login`)
  const pool = await FaultProxy.start(t, socket)
  const listener = await FaultProxy.start(t, socket)
  const as = (proxy: FaultProxy) => proxy.uri(dbUri).replace('postgres@', `${role}@`)
  const app = await build(t, {
    dbUri: as(pool),
    listenerUri: as(listener),
    poolSize: 1,
    rawChannels: 'raw',
    checkListenerInterval: 60_000
  })
  const secrets = ['127.0.0.1', 'localhost', role, String(pool.port), String(listener.port)]
  return { ...app, dbUri, pool, listener, secrets }
}

t.test('answers with 503 do not name the database or its role, but the log does', async (t) => {
  const { http, ws, lines, pool, listener, dbUri, secrets } = await hidden(t, 'hidden_role')
  const answers: string[] = []
  const away = async (code: string) => {
    const { status, text } = await publish(http)
    t.equal(status, 503)
    t.match(JSON.parse(text), { code })
    answers.push(text)
  }
  t.equal((await publish(http)).status, 202)
  pool.mode = 'refuse'
  pool.cut()
  await away('FST_PGWS_DATABASE_UNAVAILABLE')
  t.ok(lines.some((line) => line.includes(`127.0.0.1:${pool.port}`)))

  pool.mode = 'pass'
  await query(dbUri, 'alter role hidden_role connection limit 0')
  await away('FST_PGWS_DATABASE_UNAVAILABLE')
  t.ok(lines.some((line) => line.includes('too many connections for role')))

  await query(dbUri, 'alter role hidden_role connection limit -1')
  t.equal((await publish(http)).status, 202)
  pool.cutAfter(1)
  await away('FST_PGWS_OUTCOME_UNKNOWN')

  listener.mode = 'refuse'
  listener.cut()
  answers.push((await refusal(t, `${ws}/raw/${rw}`)).body)
  answers.push(await (await fetch(`${http}/health`)).text())
  for (const answer of answers) {
    for (const secret of secrets) t.notOk(answer.includes(secret), `${secret} in ${answer}`)
  }
})
