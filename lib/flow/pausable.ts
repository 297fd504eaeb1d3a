/** Why a client is not read: the database is slow to accept messages, or items of the client wait to be processed (see Intake). */
export const PAUSED = { DATABASE: 1, INTAKE: 2 } as const

/** A client whose messages can be left unread for a while. */
export interface Pausable {
  /** Why it is currently not read: bits of PAUSED. */
  paused: number
  /** Stops reading it, for a reason (a bit of PAUSED). */
  pause(reason: number): void
  /** Reads it again, unless there is another reason. */
  resume(reason: number): void
}
