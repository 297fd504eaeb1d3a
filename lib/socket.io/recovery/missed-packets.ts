import { setTimeout as sleep } from 'node:timers/promises'
import { errors, isPermanent } from '../../errors.js'
import type { NamespaceInbox } from '../packets/namespace-inbox.js'
import type { StateRecovery } from './state-recovery.js'

/** How long a failed read is repeated, and how often, in milliseconds. */
const TIMEOUT = 10_000
const INTERVAL = 200

/** When all namespaces of one replay stop waiting for the database. */
export interface ReplayDeadline {
  /** `performance.now()`; undefined while the database answers. */
  at: number | undefined
}

export interface MissedPackets {
  recovery: StateRecovery
  nsp: string
  /** The position after which the missed packets begin. */
  position: () => number
  /** The maximum age of missed packets, in milliseconds. Older ones were received before the outage. */
  maxAge: number
  inbox: NamespaceInbox
  deadline: ReplayDeadline
  /** Whether the replay is still needed. */
  wanted: () => boolean
  onError: (error: Error) => void
}

/**
 * Delivers the packets that a namespace missed while the listener was disconnected.
 * @returns whether some of them are lost
 * @throws if they cannot be read, for a permanent reason or until the deadline
 */
export async function replayMissed(missed: MissedPackets): Promise<boolean> {
  const { recovery, nsp, position, maxAge, inbox, deadline, wanted, onError } = missed
  let lost = false
  for (let more = true; more && wanted(); ) {
    try {
      const page = await recovery.page(nsp, position(), maxAge)
      lost ||= page.trimmed
      for (const { position, origin, seq, message } of page.packets) {
        if (message instanceof Error) {
          lost = true
          const packet = `the packet ${position} of the node ${origin} cannot be read: ${message.message}`
          onError(new errors.SocketIoPacketLost(packet))
        }
        const read = message instanceof Error ? undefined : message
        inbox.replay({ uid: read?.uid ?? origin, message: read, position, n: seq })
      }
      more = page.more
      deadline.at = undefined
    } catch (error) {
      deadline.at ??= performance.now() + TIMEOUT
      if (isPermanent(error) || performance.now() >= deadline.at) throw error
      await sleep(INTERVAL)
    }
  }
  return lost
}
