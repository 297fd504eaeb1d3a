import type pg from 'pg'

export interface ListenerOptions {
  /** Opens the dedicated connection. */
  connect: () => Promise<pg.Client>
  /** Checks at startup that the connection can LISTEN. Rejects with CannotListen. */
  check?: (client: pg.Client) => Promise<void>
  /** Is called once, on the first connection, before LISTEN. */
  prepare?: (client: pg.Client) => Promise<void>
  /**
   * How often the connection must prove that it is alive, in milliseconds. 0: the listener is not supervised. It then makes
   * `retries` attempts to connect, and does not replace a lost connection.
   */
  checkInterval: number
  /** The number of attempts to connect without supervision. */
  retries: number
  /**
   * Is called before a probe is sent. Returns a function that is called when the probe has arrived. All notifications that
   * were committed before the probe was sent have been handled then.
   */
  onProbe?: () => () => void
  /** Is called for each change of state. */
  onEvent: (event: ListenerEvent) => void
}

/** What the listener reports: changes of its state, and failures. */
export type ListenerEvent =
  | { type: 'listening' }
  /** Notifications of the last `gap` milliseconds may be lost. */
  | { type: 'relistening'; gap: number }
  | { type: 'attempt failed'; error: Error; attempt: number; wait: number | undefined }
  | { type: 'connection lost'; error: Error }
  /** The listener has ended for good: it is not supervised, or it can never LISTEN. */
  | { type: 'lost'; error: Error }
  /** The database refuses a channel, so a new connection does not listen to it. */
  | { type: 'channel refused'; channel: string; error: Error }
  | { type: 'handler failed'; error: unknown }

/** The state of the listener. Times are in milliseconds since the epoch. */
export interface ListenerState {
  up: boolean
  /** When the current connection started to listen. */
  upSince: number | undefined
  /** When a probe last proved that notifications arrive. */
  lastProvenAlive: number | undefined
  reconnects: number
  /** The total time in which notifications may have been lost. */
  gapMilliseconds: number
}

export type Handler = (payload: string) => void

export interface ListenOptions {
  /** Reject if LISTEN cannot commit now, and do not listen when the connection is back. */
  now?: boolean
  /** The server cannot work without this channel: if the database refuses it, the listener ends. */
  required?: boolean
}
