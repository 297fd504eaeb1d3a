import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import {
  type Claims,
  parseClaimPath,
  parseKeys,
  putAt,
  requireMode,
  type SigningKey,
  signingKeyOf,
  signToken,
  tokenReader
} from '../lib/auth/index.js'
import { type ResolvedOptions, resolveOptions } from '../lib/config/index.js'
import { findSecret } from '../lib/embedded-postgres/index.js'
import { codeOf, messageOf } from '../lib/errors.js'
import { isObject } from '../lib/json-value.js'
import { type Config, pluginOptions, readConfig } from '../plugins/env.js'
import { type Command, UsageError } from './command.js'

/** Seconds. */
const UNITS: Record<string, number> = { s: 1, m: 60, h: 3600, d: 86_400 }

export const tokenCommand: Command = {
  help: `Usage: fastify-pg-websockets token --mode rw --channels room:7 [options]

Prints a token, signed with PGWS_JWT_SECRET, or with the secret of the embedded database.

  --mode r|w|rw        whether it allows reading, writing, or both; required without --admin and --claims
  --channels a,b       the channels that it allows; may be given several times. A token without channels and patterns
                       allows every channel
  --patterns 'user:*'  patterns of channels that it allows; may be given several times
  --sub ann            who its owner is
  --admin              its owner is an administrator
  --expires 1h         when it expires, in seconds (s), minutes (m), hours (h) or days (d), or "never"; default: 1h
  --claims '{…}'       further claims, as a JSON object

PGWS_JWT_AUDIENCE, PGWS_JWT_ISSUER and the variables that say where claims are (PGWS_MODE_CLAIM …) are obeyed.
`,
  async run(args) {
    const asked = parse(args)
    const config = await readConfig(process.env, 'command')
    const { key, options } = signing(config)
    const claims = claimsFor(asked, options)
    if (allowsEveryChannel(claims, asked, options)) {
      process.stderr.write(
        'Note: this token allows every channel. Name some with --channels or --patterns.\n'
      )
    }
    process.stdout.write(`${signToken(claims, key)}\n`)
  }
}

interface Asked {
  mode: string | undefined
  channels: string[] | undefined
  patterns: string[] | undefined
  sub: string | undefined
  admin: boolean
  /** In seconds. */
  lifetime: number | undefined
  claims: Record<string, unknown>
}

/** @throws UsageError */
function parse(args: string[]): Asked {
  const { mode, sub, admin = false, expires = '1h', claims, channels, patterns } = valuesOf(args)
  if (mode === undefined && !admin && claims === undefined) {
    throw new UsageError('--mode is required: r, w or rw')
  }
  if (mode !== undefined && !/^(?:r|w|rw)$/.test(mode)) throw new UsageError('--mode must be r, w or rw')
  return {
    mode,
    channels: listOf('channels', channels),
    patterns: listOf('patterns', patterns),
    sub,
    admin,
    lifetime: lifetimeOf(expires),
    claims: claims === undefined ? {} : objectOf(claims)
  }
}

function valuesOf(args: string[]) {
  try {
    const text = { type: 'string' } as const
    const texts = { type: 'string', multiple: true } as const
    const { values } = parseArgs({
      args,
      options: {
        mode: text,
        sub: text,
        expires: text,
        claims: text,
        channels: texts,
        patterns: texts,
        admin: { type: 'boolean' }
      }
    })
    return values
  } catch (error) {
    if (!codeOf(error)?.startsWith('ERR_PARSE_ARGS')) throw error
    throw new UsageError(messageOf(error))
  }
}

function listOf(option: string, values: string[] | undefined): string[] | undefined {
  const items = values?.flatMap((value) => value.split(',').map((item) => item.trim()))
  if (items?.includes('')) throw new UsageError(`--${option} names nothing: write --${option} a,b`)
  return items
}

function lifetimeOf(text: string): number | undefined {
  if (text === 'never') return undefined
  const [, digits, unit] = /^(\d{1,9})([smhd])$/.exec(text) ?? []
  const seconds = Number(digits) * UNITS[unit!]!
  if (seconds > 0) return seconds
  throw new UsageError('--expires must be a number with s, m, h or d, such as 90s, 30m, 1h or 7d; or "never"')
}

function objectOf(json: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(json)
    if (isObject(value)) return value
  } catch {}
  throw new UsageError(`--claims must be a JSON object, such as '{"name": "Ann"}'`)
}

/**
 * The key that signs, found where the server finds the key that verifies.
 * @throws Error that says what to set
 */
function signing(config: Config): { key: SigningKey; options: ResolvedOptions } {
  const jwtSecret =
    config.jwtSecret ?? ((config.dbUri ?? config.jwksUrl) ? undefined : embeddedSecret(config))
  if (jwtSecret === undefined) {
    throw new Error(
      config.jwksUrl === undefined
        ? 'PGWS_JWT_SECRET is not set: set the secret with which the server verifies tokens, in the environment or in a file .env'
        : `no token can be signed, because PGWS_JWKS_URL has public keys only: ${ISSUER}`
    )
  }
  // No database is needed.
  const options = resolveOptions({
    ...pluginOptions(config),
    jwtSecret,
    dbUri: 'unused',
    listenerUri: undefined
  })
  const key = signingKeyOf(parseKeys(options.jwtSecret!, options.jwtSecretBase64))
  if (key === undefined) {
    throw new Error(`no token can be signed, because PGWS_JWT_SECRET is a public key: ${ISSUER}`)
  }
  return { key, options }
}

const ISSUER = 'ask whoever has the private key (your identity provider) for a token'

function embeddedSecret({ embeddedFolder }: Config): string {
  const secret = findSecret(resolve(embeddedFolder))
  if (secret !== undefined) return secret
  throw new Error(
    'there is no secret: start the server once, which makes one for its embedded database, or set PGWS_JWT_SECRET'
  )
}

/** @throws UsageError if a claim cannot be put where the server looks for it */
function claimsFor(asked: Asked, options: ResolvedOptions): Claims {
  const claims: Record<string, unknown> = { ...asked.claims }
  const put = (option: string, place: string, value: unknown) => {
    if (value === undefined || value === false || putAt(claims, parseClaimPath(place)!, value)) return
    throw new UsageError(
      `--${option}: ${place} is a place in a list: write the claim with --claims instead, and use no --${option}`
    )
  }
  put('mode', options.modeClaim ?? 'mode', asked.mode)
  put('channels', options.channelsClaim ?? 'channels', asked.channels)
  put('patterns', options.channelPatternsClaim ?? 'channel_patterns', asked.patterns)
  put('admin', options.adminClaim ?? 'admin', asked.admin)
  if (asked.sub !== undefined) claims.sub = asked.sub
  const now = Math.floor(Date.now() / 1000)
  return {
    ...(options.jwtIssuer !== undefined && { iss: options.jwtIssuer }),
    ...(options.jwtAudience !== undefined && { aud: options.jwtAudience }),
    iat: now,
    ...(asked.lifetime !== undefined && { exp: now + asked.lifetime }),
    ...claims
  }
}

/**
 * Reads the claims as the server does.
 * @throws UsageError if it would refuse them
 */
function allowsEveryChannel(claims: Claims, { mode }: Asked, options: ResolvedOptions): boolean {
  try {
    const token = tokenReader(options)(claims)
    if (mode !== undefined) requireMode(token)
    return token.mode !== undefined && token.channels === undefined
  } catch (error) {
    throw new UsageError(`the server would refuse this token: ${messageOf(error)}`)
  }
}
