import pg from 'pg'
import t from 'tap'
import { LISTEN_CHANNEL, query, until, withPostgres } from '../../support/helper.js'

const { migrated } = await withPostgres(t)

const termOf = async (dbUri: string, lead: string) =>
  (await query(dbUri, `select term from pgws.${lead}, '1 minute')`)).rows[0].term as string

t.test('when a server without a bus becomes the sequencer, nothing is notified twice', async (t) => {
  const dbUri = await migrated('kept')
  const listener = new pg.Client(dbUri)
  await listener.connect()
  t.teardown(() => listener.end())
  const heard: string[] = []
  const announced: string[] = []
  listener.on('notification', ({ channel, payload = '' }) =>
    (channel === LISTEN_CHANNEL ? heard : announced).push(payload)
  )
  await listener.query(`listen "${LISTEN_CHANNEL}"; listen pgws_announcements`)

  const term = await termOf(dbUri, `lead_bus('with'`)
  const bodies = ['sent', 'long'].map((name) =>
    JSON.stringify({ channel: 'passing', payload: name.padEnd(name === 'long' ? 9000 : 0, '.') })
  )
  // As a server publishes what its clients send.
  await query(
    dbUri,
    `select pgws.relay(s.retention_version, $1, '{passing,passing}', $2, array[null, null]::interval[], array[null, null]::text[])
     from pgws.settings s`,
    [LISTEN_CHANNEL, bodies]
  )
  await query(
    dbUri,
    `select pgws.publish_text('passing', 'published'), pgws.publish_text('kept', 'retained')`
  )
  await query(dbUri, `select pgws.sequence('with', $1, null, null)`, [term])
  await until(() => heard.length === 1)
  t.same(heard, [`${bodies[0]}\t`])
  t.same(announced, [])

  await query(dbUri, `select pgws.resign('with', $1)`, [term])
  await termOf(dbUri, `lead('without'`)
  await until(() => heard.length >= 3 && announced.length > 0)
  // What was sent with them has arrived, too.
  await listener.query('select')
  t.equal(heard.length, 3)
  t.match(JSON.parse(heard[1]!), { pgws: 'large', channel: 'passing' })
  t.match(JSON.parse(heard[2]!), { channel: 'passing', payload: 'published' })
  // Servers with a bus learn that there are four positions.
  t.equal(announced.length, 1)
  t.match(announced[0], / 4 5 4 - /)
})
