import type { PresenceMember } from '../../../messages/index.js'

/** Encodes a presence member as the protocol's ClientInfo. */
export function clientInfo({ client, user, info }: PresenceMember): object {
  return { user, client, ...(info !== undefined && { conn_info: info }) }
}
