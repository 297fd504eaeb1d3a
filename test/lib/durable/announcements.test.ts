import pg from 'pg'
import t, { type Test } from 'tap'
import { GapDetector } from '../../../lib/channels/incoming/gap-detector.js'
import { readAnnouncement } from '../../../lib/messages/announcement.js'
import { readNotification } from '../../../lib/messages/notification-payload.js'
import { ANNOUNCEMENTS_CHANNEL } from '../../../lib/postgres/own-channels.js'
import { LISTEN_CHANNEL, query, until, withPostgres } from '../../support/helper.js'

const { migrated } = await withPostgres(t)

/**
 * Listens to the announcements and notifications of a database, and records those that are not announced or
 * do not match their announcement.
 */
async function listening(t: Test) {
  const dbUri = await migrated('kept', 'kept too')
  const { rows } = await query(
    dbUri,
    'select secret, retention_version::text as version from pgws.settings, pgws.secret'
  )
  const [{ secret, version }] = rows
  const client = new pg.Client(dbUri)
  await client.connect()
  t.teardown(() => client.end())
  const detector = new GapDetector()
  detector.follow(0)
  const heard = { announcements: 0, beats: 0, messages: 0, wrong: [] as string[] }
  client.on('notification', ({ channel, payload = '' }) => {
    if (channel === ANNOUNCEMENTS_CHANNEL) {
      const announcement = readAnnouncement(payload, secret, LISTEN_CHANNEL)
      if (announcement === undefined || !detector.announced(announcement)) heard.wrong.push(payload)
      else if (announcement.first > announcement.last) heard.beats++
      else heard.announcements++
      return
    }
    const received = readNotification(payload, LISTEN_CHANNEL)
    const position =
      'message' in received
        ? received.message.position
        : 'reference' in received && received.reference.table === 'message'
          ? received.reference.position
          : undefined
    if (position === undefined) return
    if (!detector.arrived(position) || detector.heard! < position) heard.wrong.push(payload)
    heard.messages++
  })
  await client.query(`listen "${LISTEN_CHANNEL}"; listen ${ANNOUNCEMENTS_CHANNEL}`)
  const sql = (text: string, values: unknown[] = []) => query(dbUri, text, values)
  const latest = async () => Number((await sql('select pgws.last_position() as latest')).rows[0].latest)
  /** Waits until everything announced has been received, and checks that nothing else was. */
  const complete = async (messages: number) => {
    const position = await latest()
    await until(() => detector.heard === position || heard.wrong.length > 0)
    t.same(heard.wrong, [])
    t.equal(heard.messages, messages)
  }
  /** Publishes as a server does. */
  const relay = (channels: string[], keys: string[], bytes = 10) =>
    sql(
      `select pgws.relay($1, $2, $3::text[], array(
          select json_build_object('channel', c, 'payload', repeat('x', $5) || n)::text
          from unnest($3::text[]) with ordinality as u (c, n)
        ), array(select pgws.max_age(c) from unnest($3::text[]) c), $4::text[])`,
      [version, LISTEN_CHANNEL, channels, keys, bytes]
    )
  return { sql, heard, complete, relay, latest }
}

t.test(
  'announces everything that gets a position: rounds, messages of servers, and without a sequencer',
  async (t) => {
    const { sql, heard, complete, relay, latest } = await listening(t)
    const publish = (count: number, bytes = 10) =>
      sql(
        `select pgws.publish_text((array['kept', 'plain', 'kept too'])[1 + n % 3], repeat('x', $2) || n) from generate_series(1, $1::int) n`,
        [count, bytes]
      )
    await publish(6)
    await complete(4)
    t.equal(heard.announcements, 1, 'at the end of the transaction')
    await sql(`select pgws.lead('node', '1 minute')`)
    await publish(30)
    await publish(3, 9000)
    await sql('select pgws.catch_up()')
    await complete(4 + 20 + 2)
    t.equal(heard.announcements, 2)
    await relay(['kept', 'plain', 'kept too'], ['k1', 'k2', 'k3'])
    await relay(['kept', 'kept too'], ['k4', 'k5'], 9000)
    await complete(30)
    await sql(`select pgws.publish_text('plain', 'nothing that is kept')`)
    await sql('select pgws.catch_up()')
    await relay(['plain'], ['k6'])
    t.equal(heard.announcements, 4, 'messages that are not stored are not announced')

    // Rolled-back messages use up positions, in the middle and at both ends.
    await relay(['kept', 'kept', 'kept', 'kept', 'kept', 'kept'], ['k1', 'n1', 'k3', 'k4', 'n2', 'k5'])
    await relay(['kept', 'kept'], ['k1', 'n1'])
    await relay(['kept', 'kept', 'kept'], ['n3', 'n1', 'n4'])
    await complete(34)
    t.equal(heard.announcements, 6)
    const client = await latest()
    await sql(`do $$ begin perform nextval('pgws.positions'); perform pgws.publish_text('kept', 'x'); end $$`)
    await sql('select pgws.catch_up()')
    await complete(35)
    t.ok((await latest()) > client + 1, 'positions of rolled-back messages are left out')

    // Deleted messages count, too.
    await sql(`update pgws.messages set expires_at = '-infinity'`)
    await sql('select pgws.clean()')
    await relay(['kept'], ['n5'])
    await complete(36)
  }
)

t.test('a beat reports the last announced position, and is sent only if that has changed', async (t) => {
  const { sql, heard, complete, relay, latest } = await listening(t)
  const beat = async (beyond: number) =>
    Number((await sql('select pgws.beat($1) as latest', [beyond])).rows[0].latest)
  t.equal(await beat(0), 0)
  await relay(['kept'], ['k1'])
  const position = await beat(0)
  t.equal(position, await latest())
  t.equal(await beat(position), position)
  await relay(['kept'], ['k2'])
  await complete(2)
  t.equal(heard.beats, 1)
})
