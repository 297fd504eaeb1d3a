/** How many pings may remain without an answer. */
const MAX_UNANSWERED = 2

/** A connection whose client answers pings. */
export interface Pinged {
  /** The number of pings without an answer so far. */
  unanswered: number
}

/**
 * Counts the next ping of a client.
 * @param excused whether its answers may be on their way: the server does not read it at the moment, or it takes what waits
 *   before the pings
 * @returns false if it has answered neither of the last two: then it is gone
 */
export function mayPing(connection: Pinged, excused: boolean): boolean {
  if (excused) connection.unanswered = 0
  else if (connection.unanswered === MAX_UNANSWERED) return false
  connection.unanswered++
  return true
}
