import type { Reached } from './connection.js'
import type { Report } from './report.js'

/** The number of round trips. The shortest one is the most exact. */
const SAMPLES = 3

/** The maximum difference that is not reported, in seconds. Clocks that NTP sets differ by far less. */
const TOLERANCE = 2

/** Compares the clock of this machine, which tokens expire by, with the database's. */
export async function checkClock(report: Report, { client }: Reached): Promise<void> {
  let shortest = Number.POSITIVE_INFINITY
  let ahead = 0
  for (let sample = 0; sample < SAMPLES; sample++) {
    const sent = performance.now()
    const { rows } = await client.query<{ now: string }>(
      'select extract(epoch from pg_catalog.clock_timestamp())::pg_catalog.text as now'
    )
    const roundTrip = (performance.now() - sent) / 1000
    if (roundTrip >= shortest) continue
    shortest = roundTrip
    ahead = Date.now() / 1000 - roundTrip / 2 - Number(rows[0]!.now)
  }
  const difference = Math.abs(ahead)
  // The database has read its clock at some moment of the round trip.
  if (difference - shortest / 2 <= TOLERANCE) {
    report.ok('clock', `differs by less than ${TOLERANCE} s from the database's`)
    return
  }
  report.warning(
    'clock',
    `this machine's clock is ${Math.round(difference)} s ${ahead > 0 ? 'ahead of' : 'behind'} the database's: synchronize both (NTP), because tokens expire ${ahead > 0 ? 'too early' : 'too late'} here, or are refused as not valid yet`
  )
}
