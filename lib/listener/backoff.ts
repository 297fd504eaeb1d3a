/**
 * How long to wait before a first connection is tried again: 1 s, doubled each time to at most 32 s, as
 * postgres-websockets does.
 * @param failures how many tries have failed so far, from 1
 * @returns milliseconds
 */
export function startBackoff(failures: number): number {
  return Math.min(1000 * 2 ** (failures - 1), 32_000)
}

/**
 * How long to wait before a lost connection is tried again: 0.1 s, 0.2 s, 0.4 s … 5 s, each between a half and
 * the whole of it at random, so that many servers do not come back in the same instant.
 * @param failures how many tries have failed since the connection was lost, from 1
 * @returns milliseconds
 */
export function reconnectBackoff(failures: number): number {
  const longest = Math.min(100 * 2 ** (failures - 1), 5000)
  return longest * (0.5 + Math.random() / 2)
}
