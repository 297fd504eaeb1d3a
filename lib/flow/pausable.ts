/** Why a socket is not read: the database is behind, or what it has sent waits to be taken (see Intake). */
export const PAUSED = { DATABASE: 1, INTAKE: 2 } as const

/** A client that can be kept from sending for a while. */
export interface Pausable {
  /** Why it is not read for the moment: bits of PAUSED. */
  paused: number
  /** Stops to read it, for a reason (a bit of PAUSED). */
  pause(reason: number): void
  /** Reads it again, unless there is another reason. */
  resume(reason: number): void
}
