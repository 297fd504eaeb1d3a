import type pg from 'pg'

/** How long connecting, LISTEN and a probe may take, in milliseconds. */
const DEADLINE = 5000

/** The connection was open, as it seemed, and yet nothing came through it. */
export class Silence extends Error {}

/**
 * Waits for the database, in a bounded time.
 * @throws Silence where that is over
 */
export function deadline<Value>(promise: Promise<Value>): Promise<Value> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    const error = () => reject(new Silence(`the database did not answer within ${DEADLINE} ms`))
    // Where this process was busy itself, an answer that is there already is read first.
    timer = setTimeout(() => setImmediate(error), DEADLINE)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

/** Drops a connection without waiting for its other end, which may be unreachable. */
export function destroy(client: pg.Client | undefined, error: Error): void {
  if (client === undefined) return
  client.end().catch(() => {})
  const { stream } = client.connection
  // Let the Terminate message out where the other end is there; an unreachable one must not hold us.
  if (error.message === 'closed') setTimeout(() => stream.destroy(), 100).unref()
  else stream.destroy()
}
