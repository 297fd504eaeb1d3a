import type { Connection } from '../../../clients/index.js'
import { MAX_LISTED } from '../../../presence/index.js'
import type { Core } from '../../index.js'
import { CommandError, ERRORS } from '../wire/protocol.js'
import { clientInfo, type Results } from '../wire/replies.js'
import { Settling } from './settling.js'
import type { Subscription } from './subscription.js'

/** Presence in the terms of the protocol. */
export class SdkPresence {
  readonly #core: Core
  readonly #settling: Settling

  constructor(core: Core) {
    this.#core = core
    this.#settling = new Settling(core.presence)
  }

  /**
   * Adds a client to a channel, if the channel tracks presence.
   * @param joinLeave whether the client receives join and leave pushes
   * @param info the claim `info` of its token, for others to see
   */
  enter(
    subscription: Subscription,
    connection: Connection,
    { joinLeave, info }: { joinLeave: boolean; info: unknown }
  ): void {
    const { presence, joinLeavePush, clients } = this.#core
    const { channel } = subscription
    if (!presence.has(channel)) return
    if (joinLeave) {
      subscription.joinLeave = true
      joinLeavePush.add(subscription, channel)
    }
    this.#settling.join(channel, { ...clients.memberOf(connection), ...(info !== undefined && { info }) })
  }

  /**
   * Undoes `enter`.
   * @param gone whether the connection has ended, so that the client cannot return
   */
  leave(subscription: Subscription, connection: Connection, gone: boolean): void {
    const { presence, joinLeavePush, clients } = this.#core
    const { channel, joinLeave } = subscription
    if (!presence.has(channel)) return
    if (joinLeave) joinLeavePush.remove(subscription, channel)
    this.#settling.leave(channel, clients.memberOf(connection).client, gone)
  }

  /** The answer to `presence`. @throws CommandError, NodesUnavailable (503) */
  async list(channel: string): Promise<Results['presence']> {
    const { presence, members } = this.#core
    if (!presence.has(channel)) throw new CommandError(ERRORS.NOT_AVAILABLE)
    const { clients, count } = await members.summary(channel)
    if (count > MAX_LISTED) {
      throw new CommandError(
        ERRORS.LIMIT_EXCEEDED,
        `more than ${MAX_LISTED} clients are in the channel: ask for presence_stats`
      )
    }
    const infos = clients.map((member) => [member.client, clientInfo(member)])
    return { presence: Object.fromEntries(infos) }
  }

  /** The answer to `presence_stats`. @throws CommandError, NodesUnavailable (503) */
  async stats(channel: string): Promise<Results['presence_stats']> {
    const { presence, members } = this.#core
    if (!presence.has(channel)) throw new CommandError(ERRORS.NOT_AVAILABLE)
    const { count, users } = await members.summary(channel)
    return { num_clients: count, num_users: users }
  }

  /** To be called when the server ends. */
  stop(): void {
    this.#settling.stop()
  }
}
