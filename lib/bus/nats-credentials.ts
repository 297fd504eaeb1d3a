import type * as Nats from '@nats-io/transport-node'
import { errors } from '../errors.js'

/** What `npm install @nats-io/transport-node` brings. */
export type NatsModule = typeof Nats

const PACKAGE = '@nats-io/transport-node'

/**
 * Loads the client of NATS, which only those install who use it.
 * @throws InvalidOption if it is not installed
 */
export async function loadNats(): Promise<NatsModule> {
  try {
    return await import('@nats-io/transport-node')
  } catch (cause) {
    const error = new errors.InvalidOption(
      'bus',
      `(PGWS_BUS) needs the package ${PACKAGE}, which cannot be loaded: run "npm install ${PACKAGE}"`
    )
    throw Object.assign(error, { cause })
  }
}

/** The block of a JWT in a file of credentials. */
const CREDS = /-----BEGIN NATS USER JWT-----\s+([\w.-]+)\s+-+END NATS USER JWT-+/
/** The block of a seed in it. */
const CREDS_SEED = /-----BEGIN USER NKEY SEED-----\s+(\w+)\s+-+END USER NKEY SEED-+/

/** A seed: the letter S, the letter of its kind, and a key in base32 (https://docs.nats.io/using-nats/developer/connecting/nkey). */
const SEED = /^S[UAONCX][A-Z2-7]{56}$/

/**
 * The credentials of a user: the text of a creds file (a JWT and its seed), the seed of an nkey, `user:password`, or a
 * token. The error never repeats them.
 * @throws InvalidOption if they are a broken file or seed
 */
export function authenticatorOf(nats: NatsModule, credentials: string): Nats.Authenticator {
  const text = credentials.trim()
  if (/-----|\n/.test(text)) {
    const [, jwt] = CREDS.exec(text) ?? []
    const [, seed] = CREDS_SEED.exec(text) ?? []
    if (jwt === undefined || seed === undefined) {
      throw malformed('is not a complete creds file: it needs the blocks NATS USER JWT and USER NKEY SEED')
    }
    return nats.jwtAuthenticator(jwt, readSeed(nats, seed))
  }
  if (SEED.test(text)) return nats.nkeyAuthenticator(readSeed(nats, text))
  const colon = text.indexOf(':')
  if (colon === -1) return nats.tokenAuthenticator(text)
  return nats.usernamePasswordAuthenticator(text.slice(0, colon), text.slice(colon + 1))
}

function readSeed(nats: NatsModule, seed: string): Uint8Array {
  if (!seed.startsWith('SU')) {
    throw malformed('has the seed of something else than a user: the seed of a user begins with SU')
  }
  const bytes = Buffer.from(seed)
  try {
    nats.nkeys.fromSeed(bytes)
  } catch {
    throw malformed('has a broken seed: its checksum is wrong, so copy it again')
  }
  return bytes
}

function malformed(problem: string): Error {
  return new errors.InvalidOption('busCredentials', `(PGWS_BUS_CREDENTIALS) ${problem}`)
}
