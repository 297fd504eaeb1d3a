import { randomUUID } from 'node:crypto'
import pg from 'pg'
import { checkCanListen, poolerOf } from '../../lib/listener/index.js'
import type { Reached } from './connection.js'
import type { Report } from './report.js'

/** How long a notification may take, in milliseconds. */
const DEADLINE = 5000

/** A full queue fails commits (https://www.postgresql.org/docs/current/sql-notify.html). */
const HIGH_USAGE = 0.5

/** Checks for a connection pooler and a full notification queue, and that a notification arrives. */
export async function checkListening(report: Report, publisher: Reached, listener: Reached): Promise<void> {
  const pooler = await report.attempt('pooler', () => checkPooler(report, publisher, listener))
  const canListen =
    pooler !== 'cannot listen' &&
    (await report.attempt('listen', async () => {
      await checkCanListen(listener.client, listener.connectAgain)
      return true
    }))
  if (canListen) await report.attempt('listen', () => checkRoundTrip(report, publisher, listener))
  await report.attempt('queue', () => checkQueue(report, publisher))
}

/** The listener's own connection is checked by `checkCanListen`. */
async function checkPooler(
  report: Report,
  { variable, client, connectAgain }: Reached,
  listener: Reached
): Promise<'cannot listen' | undefined> {
  const pooler = await poolerOf(client, connectAgain)
  const mode = `${variable}: a connection pooler (PgBouncer) in ${pooler} mode`
  if (pooler === 'transaction' && listener.client === client) {
    report.error(
      'pooler',
      `${mode}: set PGWS_LISTENER_URI to the database server itself, because LISTEN needs a session`
    )
    return 'cannot listen'
  }
  report.ok('pooler', pooler === 'none' ? `${variable}: no connection pooler` : mode)
  return undefined
}

/** Sends a notification as the server publishes, and waits for it as the server listens. */
async function checkRoundTrip(report: Report, publisher: Reached, listener: Reached): Promise<void> {
  const channel = `pgws_doctor_${randomUUID()}`
  let timer: NodeJS.Timeout | undefined
  const arrived = new Promise<boolean>((resolve) => {
    listener.client.on('notification', (notification) => {
      if (notification.channel === channel) resolve(true)
    })
    timer = setTimeout(() => resolve(false), DEADLINE)
  })
  try {
    await listener.client.query(`listen ${pg.escapeIdentifier(channel)}`)
    const startedAt = performance.now()
    await publisher.client.query('select pg_catalog.pg_notify($1, $2)', [channel, ''])
    if (await arrived) {
      report.ok('listen', `a notification has come back in ${Math.ceil(performance.now() - startedAt)} ms`)
    } else
      report.error(
        'listen',
        `no notification has come back within ${DEADLINE / 1000} s: ${adviceFor(publisher, listener)}`
      )
    await listener.client.query(`unlisten ${pg.escapeIdentifier(channel)}`)
  } finally {
    clearTimeout(timer)
  }
}

function adviceFor(publisher: Reached, listener: Reached): string {
  return listener === publisher
    ? 'something between this machine and the database drops notifications: name the database server itself in PGWS_LISTENER_URI'
    : `${publisher.variable} and ${listener.variable} must lead to the same database of the same server`
}

async function checkQueue(report: Report, { client }: Reached): Promise<void> {
  const { rows } = await client.query<{ usage: number }>(
    'select pg_catalog.pg_notification_queue_usage() as usage'
  )
  const { usage } = rows[0]!
  if (usage < HIGH_USAGE) return
  report.warning(
    'queue',
    `the notification queue is ${Math.round(usage * 100)} % full: end the oldest transaction of a session that listens (pg_stat_activity, xact_start)`
  )
}
