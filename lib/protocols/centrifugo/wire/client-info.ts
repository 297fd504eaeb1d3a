import type { PresenceMember } from '../../../messages/index.js'

/** A member, as the protocol has it. */
export function clientInfo({ client, user, info }: PresenceMember): object {
  return { user, client, ...(info !== undefined && { conn_info: info }) }
}
