import type pg from 'pg'

export interface ListenerOptions {
  /** Opens the dedicated connection. */
  connect: () => Promise<pg.Client>
  /** Checks, at the start, that the connection can LISTEN at all; rejects with CannotListen. */
  check?: (client: pg.Client) => Promise<void>
  /** What must be done once, on the first connection, before LISTEN. */
  prepare?: (client: pg.Client) => Promise<void>
  /**
   * How often the connection must prove that it is alive, in milliseconds. 0: not supervised; a first
   * connection is tried `retries` times, and a lost one is not replaced.
   */
  checkInterval: number
  /** How many times a first connection is tried without supervision. */
  retries: number
  /**
   * A probe is about to be sent. Returns what to call when it has arrived: then all notifications of what was committed
   * before it was sent have been passed on.
   */
  onProbe?: () => () => void
  /** Told of each change, for the log. */
  onEvent: (event: ListenerEvent) => void
}

export type ListenerEvent =
  | { type: 'listening' }
  /** `gap`: milliseconds within which notifications may have been lost. */
  | { type: 'relistening'; gap: number }
  | { type: 'attempt failed'; error: Error; attempt: number; wait: number | undefined }
  | { type: 'connection lost'; error: Error }
  /** The listener has ended for good: it is not supervised, or can never LISTEN. */
  | { type: 'lost'; error: Error }
  /** The database no longer takes a channel: a new connection does not listen to it. */
  | { type: 'channel refused'; channel: string; error: Error }
  | { type: 'handler failed'; error: unknown }

/** The state that health checks show. Times are milliseconds since the epoch. */
export interface ListenerState {
  up: boolean
  /** Since when it has been listening without a break. */
  upSince: number | undefined
  /** When it was last proven that notifications arrive. */
  lastProvenAlive: number | undefined
  reconnects: number
  /** For how long, in all, notifications may have been lost. */
  gapMilliseconds: number
}

export type Handler = (payload: string) => void

export interface ListenOptions {
  /** Reject where LISTEN cannot commit now, and do not listen when the connection is back. */
  now?: boolean
  /** Nothing works without it: where the database refuses it, the listener ends. */
  required?: boolean
}
