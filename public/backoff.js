const MIN = 500
const MAX = 5000

/**
 * How long to wait before the next attempt, in milliseconds: exponential with jitter, and with the bounds of Centrifugo's
 * SDK, so that all pages are back equally soon after a restart of the server.
 * @param failures how many attempts have failed in a row
 */
export function pauseAfter(failures) {
  return Math.min(MAX, MIN + Math.random() * Math.min(MAX, MIN * 2 ** failures))
}

/** The bounds, as options of the SDK. */
export const RECONNECT_DELAYS = { minReconnectDelay: MIN, maxReconnectDelay: MAX }
