import type { PresenceMember } from '../messages/index.js'
import type { JoinLeavePush, Presence } from '../presence/index.js'
import type { Connection } from './connections/connection.js'
import { connectionId } from './connections/filter.js'

/** The maximum size of what others see of a client, in bytes: the claim `sub`, and an SDK's claim `info` as JSON. */
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
 * Makes connections members of the presence channels that they join, and pushes the members of these channels to the
 * connections that ask for them.
 */
export class PresenceMembership {
  readonly #options: PresenceMembershipOptions
  /** The channels whose members are pushed to a connection. */
  readonly #pushedTo = new Map<Connection, string[]>()

  constructor(options: PresenceMembershipOptions) {
    this.#options = options
  }

  /** What others see of a connection. */
  memberOf(connection: Connection): PresenceMember {
    const { node, showUsers } = this.#options
    const { subject = '' } = connection
    // Every other member receives it with each event, so a very long one is left out.
    const visible = showUsers && Buffer.byteLength(subject) <= MAX_USER_BYTES
    return { client: connectionId(node, connection), user: visible ? subject : '' }
  }

  /** Adds a connection to its presence channels. */
  enter(connection: Connection): void {
    const { presence } = this.#options
    const channels = this.#presenceChannels(connection)
    if (channels.length === 0) return
    const member = this.memberOf(connection)
    for (const channel of channels) presence.join(channel, member)
  }

  /** Removes a connection from its presence channels. */
  leave(connection: Connection): void {
    const { presence, joinLeavePush, node } = this.#options
    if (!presence.enabled) return
    for (const channel of this.#pushedTo.get(connection) ?? []) joinLeavePush.remove(connection, channel)
    this.#pushedTo.delete(connection)
    const client = connectionId(node, connection)
    for (const channel of connection.channels) presence.leave(channel, client)
  }

  /**
   * Sends a connection the members of the presence channels that it reads, and from then on an event for each client that
   * joins or leaves.
   */
  subscribe(connection: Connection): void {
    const channels = connection.read ? this.#presenceChannels(connection) : []
    if (channels.length === 0) return
    this.#pushedTo.set(connection, channels)
    const { joinLeavePush, node } = this.#options
    const you = connectionId(node, connection)
    const lists = channels.map((channel) =>
      connection.format.encode(joinLeavePush.add(connection, channel, you))
    )
    // Ahead of what is held for a replay, because the list may be longer than what may wait.
    connection.replay(lists)
  }

  #presenceChannels({ channels }: Connection): string[] {
    const { presence } = this.#options
    return presence.enabled ? channels.filter((channel) => presence.has(channel)) : []
  }
}
