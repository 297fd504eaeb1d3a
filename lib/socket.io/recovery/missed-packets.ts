import { setTimeout as sleep } from 'node:timers/promises'
import { errors, isPermanent } from '../../errors.js'
import type { NamespaceInbox } from '../packets/namespace-inbox.js'
import type { StateRecovery } from './state-recovery.js'

/** How long the database may take to answer, and how often it is asked, in milliseconds. */
const PATIENCE = 10_000
const INTERVAL = 200

/** Until when all of one replay wait for a database that does not answer; undefined: it has answered. */
export interface Patience {
  until: number | undefined
}

export interface MissedPackets {
  recovery: StateRecovery
  nsp: string
  /** The position after which they begin. */
  position: () => number
  /** How old the packets may be at most, in milliseconds: what was committed before that has come. */
  maxAge: number
  inbox: NamespaceInbox
  patience: Patience
  /** False once nobody wants them any more. */
  wanted: () => boolean
  onError: (error: Error) => void
}

/**
 * Delivers what a namespace missed while the listener was away.
 * @returns whether some of it is gone
 * @throws where it cannot be read, for good or within PATIENCE
 */
export async function replayMissed(missed: MissedPackets): Promise<boolean> {
  const { recovery, nsp, position, maxAge, inbox, patience, wanted, onError } = missed
  let gone = false
  for (let more = true; more && wanted(); ) {
    try {
      const page = await recovery.page(nsp, position(), maxAge)
      gone ||= page.trimmed
      for (const { position, origin, seq, message } of page.packets) {
        if (message instanceof Error) {
          gone = true
          const packet = `the packet ${position} of the node ${origin} cannot be read: ${message.message}`
          onError(new errors.SocketIoPacketLost(packet))
        }
        const read = message instanceof Error ? undefined : message
        inbox.replay({ uid: read?.uid ?? origin, message: read, position, n: seq })
      }
      more = page.more
      patience.until = undefined
    } catch (error) {
      patience.until ??= performance.now() + PATIENCE
      if (isPermanent(error) || performance.now() >= patience.until) throw error
      await sleep(INTERVAL)
    }
  }
  return gone
}
