import pg from 'pg'
import { errors } from '../errors.js'
import { withPossibleCharacters } from '../json-text.js'
import { keysOf } from '../keys-of.js'
import type { Token } from './claims.js'

type OptionsUsed =
  | 'onMessageFunction'
  | 'onConnectFunction'
  | 'onDisconnectFunction'
  | 'authorizeFunction'
  | 'roleClaim'

/** The functions of the database's owner that the server calls: `schema.function`; undefined: none. */
export type SqlFunctions = { readonly [name in OptionsUsed]: string | undefined }

/** The identity with which a function is called. */
export interface Caller {
  /**
   * The JSON text of the token's claims, which functions see as `request.jwt.claims`, as with PostgREST. Characters that
   * jsonb cannot store are replaced.
   */
  readonly claims: string
  /** The database role; undefined: the server's own role, because the option `roleClaim` is not set. */
  readonly role: string | undefined
}

/** The arguments and the result of each option's function. */
const SIGNATURES: Record<Exclude<OptionsUsed, 'roleClaim'>, readonly [args: string, result: string]> = {
  onMessageFunction: ['jsonb', 'jsonb'],
  onConnectFunction: ['jsonb, text[], text', 'anything'],
  onDisconnectFunction: ['jsonb, text[], text, text', 'anything'],
  authorizeFunction: ['text, text, jsonb', 'boolean']
}

/** `schema.function`, each part an SQL identifier (sql-syntax-lexical.html). */
const NAME = /^(?:([a-z_][\w$]*)|"((?:[^"]|"")+)")\.(?:([a-z_][\w$]*)|"((?:[^"]|"")+)")$/i

/**
 * Parses the name of a function.
 * @returns its schema and its name, as the catalog has them; undefined if the text is not `schema.function`
 */
export function parseFunctionName(text: string): [schema: string, name: string] | undefined {
  const match = NAME.exec(text)
  if (match === null) return undefined
  const [, plainSchema, quotedSchema, plainName, quotedName] = match
  const part = (plain: string | undefined, quoted: string | undefined) =>
    plain?.toLowerCase() ?? quoted!.replaceAll('""', '"')
  return [part(plainSchema, quotedSchema), part(plainName, quotedName)]
}

/** The name of a function, quoted for a statement. */
export function quoteFunctionName(text: string): string {
  return parseFunctionName(text)!
    .map((part) => pg.escapeIdentifier(part))
    .join('.')
}

/** Whether there are functions to call. */
export function callsFunctions(functions: SqlFunctions): boolean {
  return keysOf(SIGNATURES).some((option) => functions[option] !== undefined)
}

/**
 * The identity with which the functions are called for a token.
 * @throws RoleNotAllowed (403) if `roleClaim` is set, and the token names no role
 */
export function callerOf({ claims, role }: Token, roleClaim: string | undefined): Caller {
  if (roleClaim !== undefined && role === undefined) throw new errors.RoleNotAllowed()
  return { claims: withPossibleCharacters(JSON.stringify(claims)), role }
}

/**
 * Checks that the functions exist. Otherwise each message, or each client, would be refused.
 * @throws FunctionMissing, NotInstalled
 */
export async function checkFunctions(client: pg.Client, functions: SqlFunctions): Promise<void> {
  let handled = false
  for (const option of keysOf(SIGNATURES)) {
    const [args, result] = SIGNATURES[option]
    const name = functions[option]
    if (name === undefined) continue
    const found = await resultsOf(client, parseFunctionName(name)!, args)
    if (found.length === 0 || (result !== 'anything' && !found.includes(result))) {
      throw new errors.FunctionMissing(`${name}(${args})`, result, option)
    }
    handled ||= option !== 'authorizeFunction'
  }
  if (handled && (await resultsOf(client, ['pgws', 'handle'])).length === 0) throw new errors.NotInstalled()
}

/** The result types of the functions with a name. The catalog is readable even without rights on the schema. */
async function resultsOf(
  client: pg.Client,
  [schema, name]: [string, string],
  args?: string
): Promise<string[]> {
  const { rows } = await client.query<{ result: string }>(
    `select pg_catalog.pg_get_function_result(p.oid) as result from pg_catalog.pg_proc p
     join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) p.pronamespace
     where n.nspname operator(pg_catalog.=) $1 and p.proname operator(pg_catalog.=) $2
     and ($3::pg_catalog.text is null or pg_catalog.oidvectortypes(p.proargtypes) operator(pg_catalog.=) $3)`,
    [schema, name, args ?? null]
  )
  return rows.map(({ result }) => result)
}

/** The statements that switch a transaction to a caller. They fail if the server may not switch to the role. */
export function become({ claims, role }: Caller): string {
  const setClaims = `select pg_catalog.set_config('request.jwt.claims', ${pg.escapeLiteral(claims)}, true)`
  if (role === undefined) return setClaims
  const name = pg.escapeLiteral(role)
  // No role has an empty name; 'none' is what RESET ROLE is made of.
  return `${setClaims}; select pg_catalog.set_config('role',
    case when ${name} operator(pg_catalog.=) any (array['none', current_user, session_user]::pg_catalog.text[])
      then '' else ${name} end, true)`
}

/** The statements that reset everything that a caller or a function has left in the session. */
export const LEAVE_NOTHING =
  'reset role; reset all; discard temporary; select pg_catalog.pg_advisory_unlock_all()'
