import type pg from 'pg'

/** How long connecting, LISTEN and a probe may take, in milliseconds. */
const DEADLINE = 5000

/** The connection seemed to be open, but nothing arrived in time. */
export class Silence extends Error {}

/**
 * Waits for the database, for a limited time.
 * @throws Silence after that time
 */
export function deadline<Value>(promise: Promise<Value>): Promise<Value> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    const error = () => reject(new Silence(`the database did not answer within ${DEADLINE} ms`))
    // If this process was busy, first read an answer that has already arrived.
    timer = setTimeout(() => setImmediate(error), DEADLINE)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

/** Closes a connection without waiting for the other end, which may be unreachable. */
export function destroy(client: pg.Client | undefined, error: Error): void {
  if (client === undefined) return
  client.end().catch(() => {})
  const { stream } = client.connection
  // Send the Terminate message if the other end is reachable, but do not wait for it.
  if (error.message === 'closed') setTimeout(() => stream.destroy(), 100).unref()
  else stream.destroy()
}
