import type { ChannelFilter, ChannelSummary, RatedChannel } from '../../channels/index.js'
import type { NodeChannel } from '../node-channel.js'
import type { OwnNode } from '../own-node.js'
import { isChannels, isRatedChannels } from './answer-checks.js'
import type { Scope } from './scope.js'

/** Lists the channels that clients have joined, on all nodes. */
export class ChannelLists {
  readonly #channel: NodeChannel
  readonly #own: OwnNode

  constructor(channel: NodeChannel, own: OwnNode) {
    this.#channel = channel
    this.#own = own
  }

  /** The channels of all nodes. @throws NodesUnavailable (503) */
  async all({ onMissing }: Scope): Promise<ChannelSummary[]> {
    const answers = await this.#channel.ask('channels', {})
    const channels = merged([this.#own.channels(), ...answers.read(isChannels, onMissing)])
    return Array.from(channels, ({ rate: _, ...summary }) => summary)
  }

  /**
   * The same with rates. Nodes that do not know theirs count as zero.
   * @param filter is applied by each node before it answers; those of an older release send all channels
   * @throws NodesUnavailable (503) for the scope `cluster`
   */
  async rated({ scope, onMissing }: Scope, filter: ChannelFilter): Promise<Iterable<RatedChannel>> {
    if (scope !== 'cluster') return this.#own.ratedChannels()
    const answers = await this.#channel.ask('channels', filter)
    return merged([this.#own.ratedChannels(filter), ...answers.read(isRatedChannels, onMissing)])
  }
}

/** The sums over several lists. */
function merged(lists: Iterable<Iterable<ChannelSummary & Partial<RatedChannel>>>): Iterable<RatedChannel> {
  const sums = new Map<string, RatedChannel>()
  for (const list of lists) {
    for (const { channel, connections, readers, writers, rate = null } of list) {
      const sum = sums.get(channel)
      if (sum === undefined) {
        sums.set(channel, { channel, connections, readers, writers, rate })
        continue
      }
      sum.connections += connections
      sum.readers += readers
      sum.writers += writers
      if (rate !== null) sum.rate = (sum.rate ?? 0) + rate
    }
  }
  return sums.values()
}
