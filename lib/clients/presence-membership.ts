import type { PresenceMember } from '../messages/index.js'
import type { JoinLeavePush, Presence } from '../presence/index.js'
import type { Connection } from './connection.js'
import { connectionId } from './filter.js'

/** How many bytes what others see of a client may have: the claim `sub`, and an SDK's claim `info` as JSON. */
export const MAX_USER_BYTES = 4096
export const MAX_INFO_BYTES = 1024

export interface PresenceMembershipOptions {
  presence: Presence
  joinLeavePush: JoinLeavePush
  /** This node's id. */
  node: string
  /** Whether others may see the claim `sub`. */
  showUsers: boolean
}

/**
 * The part that connections have in presence: each is a member of the presence channels that it is in, and those that
 * ask for it are told who else is. Nothing is kept of connections that are in none.
 */
export class PresenceMembership {
  readonly #options: PresenceMembershipOptions
  /** Of which channels a connection is told. */
  readonly #told = new Map<Connection, string[]>()

  constructor(options: PresenceMembershipOptions) {
    this.#options = options
  }

  /** What others see of a connection. */
  memberOf(connection: Connection): PresenceMember {
    const { node, showUsers } = this.#options
    const { subject = '' } = connection
    // All others get it, each time: what is longer than any name is not shown.
    const shown = showUsers && Buffer.byteLength(subject) <= MAX_USER_BYTES
    return { client: connectionId(node, connection), user: shown ? subject : '' }
  }

  /** A connection has entered its channels. */
  enter(connection: Connection): void {
    const { presence } = this.#options
    const channels = this.#presenceChannels(connection)
    if (channels.length === 0) return
    const member = this.memberOf(connection)
    for (const channel of channels) presence.join(channel, member)
  }

  /** It has left them. */
  leave(connection: Connection): void {
    const { presence, joinLeavePush, node } = this.#options
    if (!presence.enabled) return
    for (const channel of this.#told.get(connection) ?? []) joinLeavePush.remove(connection, channel)
    this.#told.delete(connection)
    const client = connectionId(node, connection)
    for (const channel of connection.channels) presence.leave(channel, client)
  }

  /**
   * Tells a connection that has just entered who is in the presence channels that it reads, and from then on who joins
   * and leaves. One that reads nothing is told nothing.
   */
  tell(connection: Connection): void {
    const channels = connection.read ? this.#presenceChannels(connection) : []
    if (channels.length === 0) return
    this.#told.set(connection, channels)
    const lists = channels.map((channel) => {
      return connection.format.encode(this.#options.joinLeavePush.add(connection, channel))
    })
    // Past what is held for a replay: the list is no part of it, and may be longer than what may wait.
    connection.replay(lists)
  }

  #presenceChannels({ channels }: Connection): string[] {
    const { presence } = this.#options
    return presence.enabled ? channels.filter((channel) => presence.has(channel)) : []
  }
}
