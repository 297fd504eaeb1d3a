import { lookup } from 'node:dns/promises'
import type { AddressInfo } from 'node:net'
import type { FastifyInstance } from 'fastify'
import {
  authorize,
  authorizeAdmin,
  type Claims,
  type SigningKey,
  signToken,
  type Token,
  tokenReader
} from '../lib/auth/index.js'
import { originHost, type ResolvedOptions } from '../lib/config/index.js'
import { PAGE_CHANNEL } from './sample-page.js'

/**
 * Prints where the server is and how to try it, when it listens with an embedded PostgreSQL.
 * @param key signs the tokens that it prints; undefined: it prints none
 */
export async function welcome(
  fastify: FastifyInstance,
  options: ResolvedOptions,
  key: SigningKey | undefined
): Promise<void> {
  const claims = { mode: 'rw', admin: true }
  const token = printedToken(key, options, claims)
  // The `sub` shows in the events and the log.
  const operator = printedToken(key, options, { ...claims, sub: 'operator' }, authorizeAdmin)
  const localhost = await lookup('localhost', { all: true }).catch(() => [])
  const scheme = fastify.initialConfig.https ? 'https' : 'http'
  // The server does not listen on a Unix socket, whose address would be a text.
  const origin = `${scheme}://${originHost(fastify.addresses() as AddressInfo[], localhost)}`
  print(origin, options, { token, operator })
}

/**
 * Signs a token to print, for the sample page or the dashboard. Returns undefined if the key cannot sign, or
 * if the options require other claims (an issuer, or claims at other places).
 * @param check throws if a token lacks what its page needs
 */
function printedToken(
  key: SigningKey | undefined,
  options: ResolvedOptions,
  claims: Claims,
  check?: (token: Token) => void
): string | undefined {
  try {
    const token = tokenReader(options)(claims)
    authorize(token, [PAGE_CHANNEL])
    check?.(token)
  } catch {
    return undefined
  }
  return key && signToken(claims, key)
}

function print(
  origin: string,
  { listenChannel, metaChannel, dbUri, dashboard }: ResolvedOptions,
  { token, operator }: { token: string | undefined; operator: string | undefined }
): void {
  const bearer = token ?? '<a token that PGWS_JWT_SECRET verifies>'
  const sql = `select pg_notify('${listenChannel.replaceAll("'", "''")}', json_build_object('channel', 'chat', 'payload', 'Hello from SQL')::text)`
  const fragment = new URLSearchParams({
    ...(token !== undefined && { token }),
    channel: 'chat',
    meta: metaChannel!
  })
  const dashboardLine = dashboard
    ? `
  See what is connected and what flows (the dashboard, for administrators):
    ${origin}/dashboard${operator === undefined ? '' : `#token=${operator}`}
`
    : ''
  process.stdout.write(`
  fastify-pg-websockets is running on an embedded PostgreSQL (for development).

  Open this page in two windows:
    ${origin}/#${fragment}

  Watch a table live (the page has the SQL for it):
    ${origin}/table.html#${new URLSearchParams(token === undefined ? {} : { token })}
${dashboardLine}
  Publish over HTTP:
    curl -X POST ${origin}/publish -H 'Authorization: Bearer ${bearer}' -H 'Content-Type: application/json' -d '{"channel":"chat","payload":"Hello from curl"}'

  Publish from SQL:
    npm run sql -- "${sql}"
    psql '${dbUri}' -c "${sql}"

`)
}
