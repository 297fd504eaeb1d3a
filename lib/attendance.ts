import type { Connection } from './connection.js'
import { connectionId } from './connection-list.js'
import type { Hub } from './hub.js'
import type { Message } from './message.js'
import type { Presence, PresenceMember } from './presence.js'

export interface AttendanceOptions {
  presence: Presence
  hub: Hub
  /** This node's id. */
  node: () => string
  /** Whether others may see the claim `sub`. */
  showUsers: boolean
}

/** The events of a channel that some connections are told of. */
interface Told {
  connections: number
  stop: () => void
}

/**
 * The part that connections have in presence: each is a member of the presence channels that it is in, and those that
 * ask for it are told who else is. Nothing is kept of connections that are in none.
 */
export class Attendance {
  readonly #options: AttendanceOptions
  /** Which channels' events a connection gets. */
  readonly #channels = new Map<Connection, string[]>()
  readonly #told = new Map<string, Told>()

  constructor(options: AttendanceOptions) {
    this.#options = options
  }

  /** What others see of a connection. */
  memberOf(connection: Connection): PresenceMember {
    const { node, showUsers } = this.#options
    const user = (showUsers ? connection.subject : undefined) ?? ''
    return { client: connectionId(node(), connection), user }
  }

  /** A connection has entered its channels. */
  enter(connection: Connection): void {
    const { presence } = this.#options
    if (!presence.enabled) return
    const channels = connection.channels.filter((channel) => presence.has(channel))
    if (channels.length === 0) return
    const member = this.memberOf(connection)
    for (const channel of channels) presence.join(channel, member)
  }

  /** It has left them. */
  leave(connection: Connection): void {
    const { presence, node } = this.#options
    if (!presence.enabled) return
    this.#untell(connection)
    const client = connectionId(node(), connection)
    for (const channel of connection.channels) presence.leave(channel, client)
  }

  /**
   * Tells a connection that has just entered who is in the presence channels that it reads, and from then on who joins
   * and leaves. One that reads nothing is told nothing.
   */
  tell(connection: Connection): void {
    const { presence, hub } = this.#options
    if (!connection.read) return
    const channels = connection.channels.filter((channel) => presence.has(channel))
    if (channels.length === 0) return
    this.#channels.set(connection, channels)
    // In one turn of the event loop: nobody comes or goes between the list and the events.
    const frames = channels.map((channel) => {
      const clients = presence.members(channel)
      return connection.format.encode(eventOf('Presence', channel, { clients }))
    })
    connection.replay(frames)
    for (const channel of channels) {
      this.#open(channel)
      // Each for itself, which is the hub's faster way.
      hub.join(connection, [hubChannel(channel)], { read: true, write: false })
    }
  }

  #untell(connection: Connection): void {
    const channels = this.#channels.get(connection)
    if (channels === undefined) return
    this.#channels.delete(connection)
    for (const channel of channels) {
      this.#options.hub.leave(connection, [hubChannel(channel)], { read: true, write: false })
      const told = this.#told.get(channel)!
      if (--told.connections > 0) continue
      this.#told.delete(channel)
      told.stop()
    }
  }

  /** The hub encodes each event once, and writes a turn's together. */
  #open(channel: string): void {
    const { presence, hub } = this.#options
    let told = this.#told.get(channel)
    if (told === undefined) {
      const stop = presence.watch(channel, (event, member) => {
        const { text } = eventOf(event === 'join' ? 'Join' : 'Leave', channel, member)
        hub.deliver({ channel: hubChannel(channel), text })
      })
      told = { connections: 0, stop }
      this.#told.set(channel, told)
    }
    told.connections++
  }
}

/** The hub's channel of a channel's events. No channel of an address can have this name: it begins with NUL. */
function hubChannel(channel: string): string {
  return `\0presence ${channel}`
}

function eventOf(event: string, channel: string, payload: object): Message {
  return { channel, text: JSON.stringify({ event, channel, payload }) }
}
