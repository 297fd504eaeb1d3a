import type { ServerResponse } from 'node:http'
import type { Access } from '../../auth/index.js'
import type { Clients, JoinOptions } from '../../clients/index.js'
import type { Log } from '../../log.js'
import { EventStream } from './connection.js'

export interface EventStreamServerOptions {
  clients: Clients
  log: Log
}

/** The clients that read server-sent events. */
export class EventStreamServer {
  readonly #clients: Clients
  readonly #onError: (error: Error) => void

  constructor({ clients, log }: EventStreamServerOptions) {
    this.#clients = clients
    this.#onError = (error) => log.debug({ err: error }, 'stream error')
  }

  /**
   * Takes a client into its channels.
   * @param response its head has been written
   * @param access what its token allows
   * @param address its client's IP address
   */
  stream(response: ServerResponse, access: Access, address: string, joinOptions: JoinOptions = {}): void {
    const connection = new EventStream(response, access, this.#clients.optionsFor(access, address))
    response.on('error', this.#onError)
    this.#clients.join(connection, access, joinOptions)
  }
}
