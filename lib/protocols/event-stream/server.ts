import type { ServerResponse } from 'node:http'
import type { Access } from '../../auth/index.js'
import type { JoinOptions, Remote } from '../../clients/index.js'
import { type Core, Protocol } from '../index.js'
import { EventStream } from './connection.js'

/** Serves clients that read server-sent events. */
export class EventStreamServer extends Protocol {
  readonly #onError: (error: Error) => void

  constructor(core: Core) {
    super(core)
    this.#onError = (error) => core.log.debug({ err: error }, 'stream error')
  }

  /**
   * Takes over a client.
   * @param response the response to write to; its head has been written
   * @param access what the client's token allows
   * @param remote the client, as its request describes it
   */
  stream(response: ServerResponse, access: Access, remote: Remote, joinOptions: JoinOptions = {}): void {
    const { clients } = this.core
    const connection = new EventStream(response, access, clients.optionsFor(access, remote))
    response.on('error', this.#onError)
    clients.join(connection, access, joinOptions)
  }
}
