import type { FastifyRequest } from 'fastify'
import type { Encoding } from '../lib/protocols/centrifugo/index.js'
import { queryOf } from './handshake/address.js'

/** The subprotocol and the content type of clients that speak protobuf. */
const SUBPROTOCOL = 'centrifuge-protobuf'
export const PROTOBUF_TYPE = 'application/octet-stream'

/**
 * Which encoding a client of an SDK speaks. It says so as it does to Centrifugo: by the subprotocol of its websocket, by
 * the content type of its request, or by `format` or `cf_protocol` in the query.
 * @param subprotocol the one that was selected for its websocket
 */
export function encodingOf({ raw, headers }: FastifyRequest, subprotocol?: string): Encoding {
  if (subprotocol === SUBPROTOCOL || headers['content-type']?.startsWith(PROTOBUF_TYPE)) return 'protobuf'
  const query = queryOf(raw.url!)
  return query.get('format') === 'protobuf' || query.get('cf_protocol') === 'protobuf' ? 'protobuf' : 'json'
}
