import pg from 'pg'
import t from 'tap'
import { build, open, query, token, until } from '../../support/helper.js'
import { createDatabase, testPostgres } from '../../support/postgres.js'

t.test('a prepared transaction publishes when it is committed', async (t) => {
  const postgres = await testPostgres(t, { max_prepared_transactions: '5' })
  const dbUri = await createDatabase(postgres)
  const { ws } = await build(t, { dbUri, migrate: true })
  await query(dbUri, `select pgws.retain('kept', '1 hour')`)
  // The sequencer sleeps. A prepared transaction cannot wake it.
  await until(
    async () =>
      (await query(dbUri, 'select last_value::int % 2 = 0 as asleep from pgws.outbox_state')).rows[0].asleep
  )
  const client = await open(t, `${ws}/kept/${token({ mode: 'r' })}`)
  const writer = new pg.Client(dbUri)
  await writer.connect()
  t.teardown(() => writer.end())
  const publish = `select pgws.publish_text('kept', 'prepared')`
  await writer.query(`begin; ${publish}`)
  await t.rejects(writer.query(`prepare transaction 'refused'`), { code: '0A000' })
  await writer.query(`begin; set local pgws.wake = off; ${publish}`)
  await writer.query(`prepare transaction 'taken'`)
  await query(dbUri, `select pgws.publish_text('kept', 'meanwhile')`)
  await client.received(1)
  await writer.query(`commit prepared 'taken'`)
  await client.received(2)
  t.same(
    client.messages.map((text) => JSON.parse(text).payload),
    ['meanwhile', 'prepared']
  )
})
