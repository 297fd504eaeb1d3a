import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import { acquireAll } from '../channels/index.js'
import { toAscii } from '../json-text.js'
import type { PresenceMember } from '../messages/index.js'
import {
  type ChannelChanges,
  decodeLine,
  encodeLine,
  encodeQuestion,
  lineOfMembers,
  textOf,
  wordOf
} from './channel-line.js'
import { JoinedChannels } from './joined-channels.js'
import { MemberAnswers } from './member-answers.js'
import { MemberReads, type ReadMembers } from './member-reads.js'
import { type Announced, PeerMembers } from './peer-members.js'
import { type ChannelPresence, type Presence, type PresenceChange, summaryOf } from './presence.js'

/** How long changes are gathered after the last message, in milliseconds. A lone change is sent at once. */
export const GATHERING = 50

/**
 * How long the first client of a channel on this node waits for what the other nodes answer, in milliseconds. Members that
 * come later reach it as joins.
 */
const FIRST_ANSWERS = 100

/** With how many heartbeats the version of a channel is sent again after its last change. Each may be lost, too. */
const REPETITIONS = 3

/** A line for the nodes whose clients have joined a channel. */
export interface Line {
  channel: string
  /** The word of the channel, a space, and JSON in ASCII. */
  text: string
  /** The number of changes that this node has sent with it. */
  version: number
}

/** Lines of another node. */
export interface Lines {
  /** The number of changes that it had sent before, and has sent with these. Undefined in an answer. */
  after?: number | undefined
  version?: number | undefined
  /** The number of the answer that they belong to, if the answer has all members of the node. */
  answer?: number | undefined
  /** Whether it is the last part of the answer. */
  done?: boolean | undefined
  text: string
}

export interface ChannelSyncOptions {
  presence: Presence
  /** Whether lines reach only the nodes whose clients have joined the channel. Otherwise they reach all, in one order. */
  byChannel: boolean
  /** Whether other nodes exchange their members by channel. */
  hasPeers: () => boolean
  /** Sends lines to the other nodes. @param after the number of changes that were sent before. Rejects if that fails. */
  send: (after: number, lines: readonly Line[]) => Promise<void>
  /** Sends lines to a node. @param answer the number of the answer, if it has all members. Rejects if that fails. */
  answer: (node: string, lines: readonly string[], answer: number | undefined) => Promise<void>
  /** Asks a node for all of its members. */
  ask: (node: string) => void
  /** Asks all nodes for their members of some channels. */
  read: ReadMembers
  /** The minimum time between two requests for all members of the same node, in milliseconds. */
  interval: number
}

/** The members of this node in a channel, as the others know them. */
interface Sent {
  /** The word of the channel. */
  readonly word: string
  /** The version that was sent last; 0: none. */
  version: number
  changes: PresenceChange[]
}

/**
 * Keeps the members that other nodes have in the channels that clients of this node have joined, and sends the others
 * its own. What others send of other channels is dropped unparsed. A node that gets its first client in a channel asks the
 * others for their members there.
 *
 * A change names the channel's version before it. So a node that has missed one notices it with the next, and asks the
 * sender for all of its members. The last one of a channel is noticed with a heartbeat: where all nodes hear everything, it
 * has the number of all changes; otherwise the versions of channels that have changed are sent again with the next heartbeats.
 */
export class ChannelSync {
  readonly #options: ChannelSyncOptions
  readonly #peers: PeerMembers
  readonly #sent = new Map<string, Sent>()
  readonly #joined: JoinedChannels
  readonly #answers: MemberAnswers
  /** How many channels of this node have the same word. */
  readonly #words = new Map<string, number>()
  /** The number of changes that were sent, or did not have to be sent because there are no other nodes. */
  #version = 0
  readonly #changed = new Set<string>()
  /** Channels whose members the others are asked for next. */
  readonly #questions = new Set<string>()
  /** Those that could not be asked about. */
  readonly #unasked = new Set<string>()
  /**
   * Channels whose last change may be missing on other nodes, with the number of heartbeats with which their versions are
   * sent again, and those for which that is due.
   */
  readonly #uncertain = new Map<string, number>()
  readonly #repeated = new Set<string>()
  readonly #reads: MemberReads
  #sending = false

  constructor(options: ChannelSyncOptions) {
    this.#options = options
    this.#peers = new PeerMembers(options)
    this.#reads = new MemberReads(options.read)
    this.#answers = new MemberAnswers({
      channels: () => this.#sent.keys(),
      lineOf: (channel) => this.#stateLine(channel),
      send: options.answer
    })
    this.#joined = new JoinedChannels({
      onFirst: (channel) => {
        this.#keepWord(channel)
        if (!options.hasPeers()) return false
        this.#questions.add(channel)
        this.#sendSoon()
        return true
      },
      onLast: (channel) => {
        this.#dropWord(channel)
        this.#questions.delete(channel)
        this.#peers.forgetChannel(channel)
      }
    })
    options.presence.onLocalChange((change) => this.#localChange(change))
  }

  /** The number of changes that were sent before the next message. */
  get version(): number {
    return this.#version
  }

  /**
   * Keeps the members that other nodes have in the presence channels among some channels.
   * @returns a promise that resolves when the others have had time to answer, with a function that ends this; undefined if
   *   none of them is a presence channel
   */
  async join(channels: readonly string[]): Promise<(() => void) | undefined> {
    const { presence } = this.#options
    if (!presence.enabled) return undefined
    const tracked = channels.filter((channel) => presence.has(channel))
    if (tracked.length === 0) return undefined
    return acquireAll(
      tracked,
      (channel) => this.#joined.acquire(channel),
      (channel) => this.#joined.release(channel)
    )
  }

  /**
   * The members of a channel, on all nodes.
   * @param onMissing is called with the nodes that have not answered, if there are any
   * @throws NodesUnavailable (503) if the other nodes must be asked, and cannot be
   */
  async summary(channel: string, onMissing?: (nodes: string[]) => void): Promise<ChannelPresence> {
    const { presence, hasPeers } = this.#options
    if (this.#joined.has(channel)) await this.#joined.ready(channel)
    else if (hasPeers()) {
      const { members, missing } = await this.#reads.read(channel)
      if (missing.length > 0) onMissing?.(missing)
      return summaryOf([...presence.members(channel), ...members])
    }
    return presence.summary(channel)
  }

  /** The members of this node in some channels: what `read` of another node returns. */
  answer(channels: readonly string[]): unknown[] {
    const { presence } = this.#options
    return channels
      .map((channel): [string, PresenceMember[]] => [channel, [...presence.localMembers(channel).values()]])
      .filter(([, members]) => members.length > 0)
      .map(([channel, members]) => lineOfMembers(channel, 1, members))
  }

  /** Takes what a node announces; nothing, if it does not exchange members by channel. */
  heard(node: string, announced: Announced): void {
    this.#peers.heard(node, announced, this.#joined.size > 0)
  }

  /** Takes lines of another node. */
  receive(node: string, { after, version, answer, done, text }: Lines): void {
    const wanted = this.#joined.size > 0
    if (after !== undefined && version !== undefined) this.#peers.counted(node, after, version, wanted)
    if (answer !== undefined) this.#peers.begin(node, answer)
    if (this.#words.size > 0) for (const line of text.split('\n')) this.#receiveLine(node, line)
    if (done) this.#peers.end(node)
  }

  /** To be called when what others have sent may not have arrived here. */
  interrupted(): void {
    // Otherwise the number of changes says whether anything is missing.
    if (this.#options.byChannel) this.#peers.doubt(this.#joined.size > 0)
  }

  /** Answers another node's request for all members of this node. */
  asked(node: string): void {
    this.#answers.asked(node)
  }

  /** To be called with each heartbeat of this node: sends and asks again what may not have arrived. */
  beat(): void {
    this.#answers.retry()
    for (const channel of this.#unasked) if (this.#joined.has(channel)) this.#questions.add(channel)
    this.#unasked.clear()
    for (const [channel, times] of this.#uncertain) {
      this.#repeated.add(channel)
      if (times > 1) this.#uncertain.set(channel, times - 1)
      else this.#uncertain.delete(channel)
    }
    if (this.#questions.size > 0 || this.#repeated.size > 0) this.#sendSoon()
  }

  /** Forgets a node that has left. */
  forget(node: string): void {
    this.#peers.forget(node)
  }

  #localChange(change: PresenceChange): void {
    const { channel } = change
    let sent = this.#sent.get(channel)
    if (sent === undefined) {
      sent = { word: wordOf(channel), version: 0, changes: [] }
      this.#sent.set(channel, sent)
      this.#keepWord(channel)
    }
    sent.changes.push(change)
    this.#changed.add(channel)
    this.#sendSoon()
  }

  #receiveLine(node: string, line: string): void {
    const blank = line.indexOf(' ')
    if (!this.#words.has(line.slice(0, blank))) return
    let value: unknown
    try {
      value = JSON.parse(line.slice(blank + 1))
    } catch {
      return
    }
    const said = decodeLine(node, value)
    if (said === undefined) return
    const { channel } = said
    if (said.after === undefined) {
      if (this.#sent.has(channel)) this.#answers.asked(node, channel)
    } else if (this.#joined.has(channel)) {
      this.#peers.apply(node, said, line.length, this.#joined.isSettling(channel))
    }
  }

  #keepWord(channel: string): void {
    const word = wordOf(channel)
    this.#words.set(word, (this.#words.get(word) ?? 0) + 1)
  }

  #dropWord(channel: string): void {
    const word = wordOf(channel)
    const count = this.#words.get(word)! - 1
    if (count === 0) this.#words.delete(word)
    else this.#words.set(word, count)
  }

  #sendSoon(): void {
    if (this.#sending) return
    this.#sending = true
    setImmediate(() => this.#sendChanges())
  }

  /** Sends the changes of this turn of the event loop, or since the last message, together. */
  async #sendChanges(): Promise<void> {
    do {
      const after = this.#version
      const lines = this.#changeLines()
      const questions = [...this.#questions]
      this.#questions.clear()
      for (const channel of questions) {
        lines.push({ channel, text: textOf(channel, encodeQuestion(channel)), version: this.#version })
      }
      const sent = lines.length === 0 ? undefined : this.#options.send(after, lines)
      this.#settle(questions, sent)
      sent?.catch(() => this.#failed(lines))
      await Promise.allSettled([sent, sleep(GATHERING, undefined, { ref: false })])
    } while (this.#changed.size > 0 || this.#questions.size > 0 || this.#repeated.size > 0)
    this.#sending = false
  }

  /** Ends the wait for answers: at once if nobody could be asked. */
  async #settle(questions: readonly string[], sent: Promise<void> | undefined): Promise<void> {
    if (questions.length === 0) return
    const settle = this.#joined.settler(questions)
    try {
      await sent
      await sleep(FIRST_ANSWERS, undefined, { ref: false })
      // If this process was busy, first read the answers that have already arrived.
      await nextTurn()
    } catch {
      for (const channel of questions) this.#unasked.add(channel)
    }
    settle()
  }

  #failed(lines: readonly Line[]): void {
    if (this.#options.byChannel) for (const { channel } of lines) this.#uncertain.set(channel, REPETITIONS)
  }

  #changeLines(): Line[] {
    const { presence, byChannel, hasPeers } = this.#options
    const lines: Line[] = []
    const alone = !hasPeers()
    const add = (word: string, changes: ChannelChanges) => {
      if (alone) return
      const text = `${word} ${encodeLine(changes)}`
      lines.push({ channel: changes.channel, text, version: this.#version })
    }
    for (const channel of this.#repeated) {
      const version = this.#sent.get(channel)?.version ?? 0
      if (!this.#changed.has(channel)) {
        add(wordOf(channel), { channel, after: version, version, changes: [] })
      }
    }
    this.#repeated.clear()
    for (const channel of this.#changed) {
      const sent = this.#sent.get(channel)!
      const { version: after, changes } = sent
      this.#version += changes.length
      sent.version = this.#version
      sent.changes = []
      add(sent.word, { channel, after, version: sent.version, changes })
      if (byChannel) this.#uncertain.set(channel, REPETITIONS)
      if (presence.localMembers(channel).size > 0) continue
      this.#sent.delete(channel)
      this.#dropWord(channel)
    }
    this.#changed.clear()
    return lines
  }

  /** The members in a channel; undefined before the first ones are sent, because that says who they are. */
  #stateLine(channel: string): string | undefined {
    const sent = this.#sent.get(channel)
    if (sent === undefined || sent.version === 0) return undefined
    const { presence } = this.#options
    // Changes that are not sent yet are in it already. Applied once more, they do nothing.
    const members = presence.localMembers(channel).values()
    return textOf(channel, toAscii(JSON.stringify(lineOfMembers(channel, sent.version, members))))
  }
}
