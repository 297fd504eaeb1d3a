import { randomBytes, randomUUID } from 'node:crypto'
import type { Audience, Bus } from '../bus/index.js'
import { errors, messageOf } from '../errors.js'
import type { Log } from '../log.js'
import { Multipart } from './messages/multipart.js'
import {
  decode,
  encode,
  encodeAnswer,
  encodeQuestion,
  type NodeMessage,
  type NodeState,
  type PublicationMark
} from './messages/node-message.js'
import type { NodeFeed } from './node-feed.js'
import type { OtherBuses } from './other-buses.js'
import { BEATS, type Peer, Peers } from './peers.js'
import type { PresenceExchange } from './presence-exchange.js'
import { Answers } from './questions/answers.js'

export interface NodeChannelOptions {
  /** This node's id: see newNodeId. */
  node: string
  /** How long a node may be silent before it is regarded as gone, in milliseconds. */
  timeout: number
  /** What this node announces of itself. */
  state: () => NodeState
  /** Carries the messages between nodes. */
  bus: Pick<Bus, 'send'>
  /** Whether this node hears the others and listens. While it does not, it takes no part in the cluster. */
  ready: () => boolean
  /** Answers another node's question. Any role that may connect can ask, so this throws for an invalid question. */
  answer: (question: string, args: unknown) => unknown
  deliveries: DeliveryCounts
  /** Takes what other nodes say of the members of presence channels; undefined if there are none. */
  presence: Pick<PresenceExchange, 'heard' | 'receive' | 'forget' | 'beat'> | undefined
  /** Takes the events and figures of other nodes, and their requests for those of this node. */
  feed: Pick<NodeFeed, 'asked' | 'receive'>
  /** Takes what a node says that has another bus. */
  others: Pick<OtherBuses, 'heard' | 'forget'>
  log: Log
}

/** Counts the clients of this node that a publication is delivered to. */
export interface DeliveryCounts {
  /** Starts to count for a publication. */
  begin(publication: string): void
  /** Ends the count. `counted` is called with the number once all of the publication has been delivered. */
  end(publication: string, counted: (delivered: number) => void): void
}

/** Makes the id of a node: 16 random hexadecimal digits. */
export function newNodeId(): string {
  return randomBytes(8).toString('hex')
}

/**
 * Communication with the other nodes, over the bus: membership, questions and answers, and the marks around a publication
 * that make each node count its deliveries. These go through the database, so they stay in order with the messages of
 * clients.
 */
export class NodeChannel {
  /** This node's id: 16 hexadecimal digits. */
  readonly id: string
  readonly #options: NodeChannelOptions
  readonly #peers: Peers
  readonly #pending = new Map<string, Answers>()
  readonly #parts = new Multipart()
  #timer: NodeJS.Timeout | undefined
  #beating = false
  #closed = false

  constructor(options: NodeChannelOptions) {
    this.id = options.node
    this.#options = options
    const { timeout, presence, others, log } = options
    const fieldsOf = ({ id, hostname, pid }: Peer) => ({ node: id, hostname, pid })
    this.#peers = new Peers({
      timeout,
      onJoin: (peer) => log.info(fieldsOf(peer), 'another node joined'),
      onLeave: (peer) => {
        log.info(fieldsOf(peer), 'another node left')
        for (const answers of this.#pending.values()) answers.forget(peer.id)
        presence?.forget(peer.id)
        others.forget(peer.id)
      }
    })
  }

  /** The known other nodes. */
  get peers(): Peer[] {
    return this.#peers.all
  }

  /** One of the other nodes; undefined if it is not known. */
  peer(node: string): Peer | undefined {
    return this.#peers.get(node)
  }

  has(node: string): boolean {
    return this.#peers.has(node)
  }

  /** Announces this node; the others answer with an announcement of their own. */
  async hello(): Promise<void> {
    if (this.#closed) return
    this.#timer ??= setInterval(() => this.#beat(), this.#options.timeout / BEATS).unref()
    await this.#announce('hello')
  }

  /** Announces that this node leaves. After that, nothing is sent or received. */
  async goodbye(): Promise<void> {
    const known = this.#timer !== undefined
    clearInterval(this.#timer)
    this.#closed = true
    if (!known || !this.#options.ready()) return
    await this.#notify('all', [encode({ from: this.id, type: 'goodbye' })])
  }

  /** @throws NodesUnavailable (503) while this node does not listen */
  requireReady(): void {
    if (!this.#options.ready()) {
      throw new errors.NodesUnavailable('this server is not connected to the database')
    }
  }

  /**
   * Asks the other nodes, or one of them. Questions arrive in the order of the calls.
   * @param to the id of a node, or those of the nodes that know the question: others do not answer it, and are not waited for
   * @throws NodesUnavailable (503)
   */
  async ask(question: string, args: unknown, to?: string | readonly string[]): Promise<Answers> {
    this.requireReady()
    const answers = new Answers(to === undefined ? this.#peers.ids : [to].flat())
    const node = typeof to === 'string' ? to : undefined
    if (answers.missing.length === 0) return answers
    return this.#await(answers, async (id) => {
      try {
        const texts = encodeQuestion(this.id, node, id, question, args)
        await this.#options.bus.send(node === undefined ? 'all' : { node }, texts)
      } catch (error) {
        throw new errors.NodesUnavailable(messageOf(error))
      }
    })
  }

  /**
   * Makes all nodes count their deliveries of a publication.
   * @param publish publishes it in one transaction, between two payloads for the database channel of the nodes
   * @returns the number of clients that each node delivered it to
   * @throws what `publish` throws
   */
  count(publish: (begin: string, end: string) => Promise<void>): Promise<Answers> {
    return this.#await(new Answers([this.id, ...this.#peers.ids]), (id) =>
      publish(encode({ from: this.id, type: 'begin', id }), encode({ from: this.id, type: 'end', id }))
    )
  }

  /** Asks all other nodes to send their events, and their figures if wanted, for some seconds. */
  askFeed(stats: boolean): void {
    this.#notify('all', [encode({ from: this.id, type: 'follow', stats })])
  }

  /** Sends events or figures to all other nodes: see NodeFeed. */
  sendFeed(text: string): void {
    if (!this.#closed) this.#notify('all', [encode({ from: this.id, type: 'told', text })])
  }

  /** Takes what a node has sent. */
  receive(payload: string): void {
    const message = decode(payload)
    if (message === undefined || this.#closed) return
    const { from } = message
    if (from === this.id) this.#receiveOwn(message)
    else {
      this.#peers.heard(from)
      this.#receiveOther(message)
    }
  }

  /** Takes a mark of a publication. It comes through the database, whatever the bus is. */
  receiveMark(message: PublicationMark): void {
    if (this.#closed) return
    const { deliveries } = this.#options
    const { from, type, id } = message
    if (type === 'begin') deliveries.begin(keyOf(message))
    else {
      deliveries.end(keyOf(message), (delivered) => {
        if (from === this.id) this.#pending.get(id)?.add(from, delivered)
        else this.#reply(from, id, delivered)
      })
    }
  }

  #receiveOwn(message: NodeMessage): void {
    if (message.type === 'heartbeat') this.#peers.beat()
    else if (message.type === 'begin' || message.type === 'end') this.receiveMark(message)
  }

  #receiveOther(message: NodeMessage): void {
    const { from } = message
    const { presence, feed } = this.#options
    switch (message.type) {
      case 'hello':
        this.#peers.update(from, message.node)
        this.#announce('here')
        if (this.#peers.has(from)) presence?.heard(message)
        break
      case 'here':
      case 'heartbeat':
        this.#peers.update(from, message.node)
        if (this.#peers.has(from)) presence?.heard(message)
        break
      case 'goodbye':
        this.#peers.delete(from)
        break
      case 'elsewhere':
        this.#options.others.heard(message)
        break
      case 'question':
        if (message.to === undefined || message.to === this.id) this.#answer(message)
        break
      case 'part': {
        const { id, to, question, part, text, last } = message
        if (to !== undefined && to !== this.id) break
        const args = this.#parts.add(keyOf(message), part, text, last)
        if (args !== undefined) this.#answer({ from, type: 'question', id, question, args })
        break
      }
      case 'answer': {
        const { id, to, part, text, last } = message
        if (to === this.id) this.#pending.get(id)?.addPart(from, part, text, last)
        break
      }
      case 'begin':
      case 'end':
        this.receiveMark(message)
        break
      case 'follow':
        if (this.#peers.has(from)) feed.asked(message.stats)
        break
      case 'told':
        if (this.#peers.has(from)) feed.receive(from, message.text)
        break
      default: {
        const peer = this.#peers.get(from)
        if (peer !== undefined) presence?.receive(message, peer)
      }
    }
  }

  /** What is known at once is answered at once, because questions about the same thing must be answered in order. */
  async #answer({ from, id, question, args }: NodeMessage & { type: 'question' }): Promise<void> {
    let value: unknown
    try {
      const answer = this.#options.answer(question, args)
      value = answer instanceof Promise ? await answer : answer
    } catch (error) {
      this.#options.log.debug({ err: error, node: from }, "could not answer another node's question")
      return
    }
    this.#reply(from, id, value)
  }

  #reply(to: string, id: string, value: unknown): void {
    if (this.#closed) return
    this.#notify({ node: to }, encodeAnswer(this.id, to, id, value))
  }

  async #await(answers: Answers, send: (id: string) => Promise<void>): Promise<Answers> {
    // Nobody can guess it, so that no role of the database can mark the end of a publication that was none.
    const id = randomUUID()
    // Before sending: answers may arrive before the commit is acknowledged.
    this.#pending.set(id, answers)
    try {
      await send(id)
      return await answers.wait()
    } finally {
      this.#pending.delete(id)
    }
  }

  /** Sends a heartbeat. While this node does not listen it sends none, so that the others do not wait for its answers. */
  async #beat(): Promise<void> {
    if (this.#beating || !this.#options.ready()) return
    this.#beating = true
    this.#options.presence?.beat()
    await this.#announce('heartbeat')
    this.#beating = false
  }

  #announce(type: 'hello' | 'here' | 'heartbeat'): Promise<void> {
    return this.#notify('all', [encode({ from: this.id, type, node: this.#options.state() })])
  }

  /** Sends texts. If that fails, the next heartbeat repairs it, or the node that asked reports a missing answer. */
  async #notify(to: Audience, texts: readonly string[]): Promise<void> {
    try {
      await this.#options.bus.send(to, texts)
    } catch (error) {
      this.#options.log.debug({ err: error }, 'could not send a message to the other nodes')
    }
  }
}

/** Ids are numbers of the sender, so two nodes may use the same one. */
function keyOf({ from, id }: { from: string; id: string }): string {
  return `${from} ${id}`
}
