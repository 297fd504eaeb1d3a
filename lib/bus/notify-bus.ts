import type { Audience, Bus, BusHandlers } from './bus.js'

export interface NotifyBusOptions {
  /** Notifies payloads on the database channel of the nodes, in order. */
  notify: (payloads: readonly string[]) => Promise<void>
  /** Whether this node listens. */
  up: () => boolean
}

/**
 * PostgreSQL alone: every node hears everything, because each listens. The database announces messages itself, in the
 * transaction that gives them their positions, so they arrive as notifications of the listen channel. What nodes send goes
 * through the database, too, so it stays in order with the messages.
 */
export class NotifyBus implements Bus {
  readonly name = 'notify'
  readonly announces = false
  readonly #options: NotifyBusOptions
  #handlers: BusHandlers | undefined

  constructor(options: NotifyBusOptions) {
    this.#options = options
  }

  get up(): boolean {
    return this.#options.up()
  }

  async start(handlers: BusHandlers): Promise<void> {
    this.#handlers = handlers
  }

  /** Takes the payload of a notification on the database channel of the nodes. */
  receive(payload: string): void {
    this.#handlers?.received(payload)
  }

  async join(): Promise<void> {}

  leave(): void {}

  /** The database has announced them. */
  async announce(): Promise<void> {}

  /** Every node receives it. The texts say whom they are for. */
  async send(_to: Audience, texts: readonly string[]): Promise<void> {
    await this.#options.notify(texts)
  }

  async refresh(): Promise<void> {}

  async close(): Promise<void> {
    this.#handlers = undefined
  }
}
