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
