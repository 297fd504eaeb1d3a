import type { ServerResponse } from 'node:http'
import type { Access } from '../../auth/index.js'
import type { JoinOptions } from '../../clients/index.js'
import { type Core, Protocol } from '../index.js'
import { EventStream } from './connection.js'

/** The clients that read server-sent events. */
export class EventStreamServer extends Protocol {
  readonly #onError: (error: Error) => void

  constructor(core: Core) {
    super(core)
    this.#onError = (error) => core.log.debug({ err: error }, 'stream error')
  }

  /**
   * Takes a client into its channels.
   * @param response its head has been written
   * @param access what its token allows
   * @param address its client's IP address
   */
  stream(response: ServerResponse, access: Access, address: string, joinOptions: JoinOptions = {}): void {
    const { clients } = this.core
    const connection = new EventStream(response, access, clients.optionsFor(access, address))
    response.on('error', this.#onError)
    clients.join(connection, access, joinOptions)
  }
}
