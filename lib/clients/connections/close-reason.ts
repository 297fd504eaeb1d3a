/**
 * Why connections end, whatever close code a protocol has for it. One vocabulary for metrics (`pgws_closes_total`), events
 * and the log. Each reason has the severity and the text of its events.
 */
export const CLOSE_REASONS = {
  client: { level: 'info', text: 'the client has ended the connection' },
  'connection-lost': { level: 'info', text: 'the connection broke' },
  'no-pong': { level: 'warning', text: 'the client has not answered pings' },
  'token-expired': { level: 'info', text: "the client's token has expired" },
  'token-revoked': { level: 'warning', text: "the client's token was revoked" },
  'invalid-token': { level: 'warning', text: 'the client has sent an invalid token' },
  disconnected: { level: 'info', text: 'an administrator or the application has closed the connection' },
  shutdown: { level: 'info', text: 'the server shuts down' },
  outdated: { level: 'warning', text: 'the server is too old for its database, and shuts down' },
  slow: { level: 'warning', text: 'the client has not read fast enough' },
  'too-large': { level: 'warning', text: 'the client has sent a message that is too large' },
  invalid: { level: 'warning', text: 'the client has sent a message that is not valid' },
  'not-published': { level: 'error', text: 'the database has not accepted a message of the client' },
  'not-resumed': { level: 'error', text: 'the messages that the client has missed could not be read' },
  'insufficient-state': { level: 'warning', text: 'the server may have missed messages for the client' },
  protocol: { level: 'warning', text: 'the client has violated its protocol' },
  'too-many-requests': { level: 'warning', text: 'the client has sent too many requests' },
  'server-error': { level: 'error', text: 'the server has failed' }
} as const satisfies Record<string, { level: 'info' | 'warning' | 'error'; text: string }>

export type CloseReason = keyof typeof CLOSE_REASONS

/** The codes with which `ws` closes because of what the client has sent (RFC 6455, section 7.4.1): see WebSocketConnection.failed. */
const REFUSED_BY_WS: { readonly [cause in CloseReason]?: number } = {
  'too-large': 1009,
  invalid: 1007,
  protocol: 1002
}

/**
 * How a connection has ended: its close code, and why. A websocket that broke ends with 1006 (RFC 6455, section 7.1.5). `ws`
 * says so, too, after it has refused a message, because it does not read the client's answer then (`receiverOnError` in its
 * lib/websocket.js).
 * @param closedFor why the server has closed it; undefined: it has not
 * @param endedWith the close code, as the transport has it
 */
export function endOf(
  closedFor: CloseReason | undefined,
  endedWith: number
): { code: number; cause: CloseReason } {
  const broke = endedWith === 1006
  if (closedFor === undefined) return { code: endedWith, cause: broke ? 'connection-lost' : 'client' }
  return { code: broke ? (REFUSED_BY_WS[closedFor] ?? endedWith) : endedWith, cause: closedFor }
}
