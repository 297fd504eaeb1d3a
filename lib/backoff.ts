/**
 * The backoff for the first connection: 1 s, doubled each time up to 32 s, as in postgres-websockets.
 * @param failures the number of failed attempts so far, from 1
 * @returns milliseconds
 */
export function startBackoff(failures: number): number {
  return Math.min(1000 * 2 ** (failures - 1), 32_000)
}

/**
 * The backoff after a lost connection: 0.1 s, 0.2 s, 0.4 s … 5 s, each with a jitter of up to a half, so that many servers
 * do not reconnect at the same instant.
 * @param failures the number of failed attempts after the connection was lost, from 1
 * @returns milliseconds
 */
export function reconnectBackoff(failures: number): number {
  const longest = Math.min(100 * 2 ** (failures - 1), 5000)
  return longest * (0.5 + Math.random() / 2)
}
