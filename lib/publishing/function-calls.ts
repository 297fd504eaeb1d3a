import type pg from 'pg'
import { quoteFunctionName, type SqlFunctions } from '../auth/index.js'
import { errors, isUntranslatable, messageOf } from '../errors.js'
import { away, type Rows, textArray } from '../postgres/index.js'
import type { Notification, Outcome } from './batch-queue.js'

/**
 * At most so many groups in one transaction. Each is a subtransaction, and PostgreSQL keeps 64 of a session in shared
 * memory (PGPROC_MAX_CACHED_SUBXIDS); more slow every other session down.
 */
const MAX_GROUPS = 60

/** How often what failed for no fault of its own is tried again. */
const MAX_ATTEMPTS = 5

/**
 * SQLSTATE classes (errcodes-appendix.html) that are no answer to the sender: resources, the operator, the system.
 * A statement that took too long (57014) is one: what it did, the function did.
 */
const NOT_THE_SENDERS = /^(?:53|57P|58|XX)/

/** A lock that is not to be had, a database that may only be read: it is tried again while the message may wait. */
const IN_THE_WAY = /^(?:55P03|25006)/

export interface FunctionCallsOptions extends SqlFunctions {
  listenChannel: string
  /** Runs one statement in a transaction of its own; rejects as BridgeOptions.query. */
  call: (text: string, values: unknown[]) => Promise<Rows>
}

/** Its end resets what the transaction has set; until the commit, an idle session is still ours. */
const HANDLE = `select h.answer, pg_catalog.set_config('idle_in_transaction_session_timeout', '0', true)
  from (
    select pgws.handle($1, $2::pg_catalog.text[]::integer[], $3::pg_catalog.text[], $4::pg_catalog.text[], $5::pg_catalog.text[],
      $6::pg_catalog.text[], $7::pg_catalog.text[], $8::pg_catalog.text[], $9::pg_catalog.text[],
      $10::pg_catalog.text[]) as answer
    offset 0
  ) h`

/** What `pgws.handle` answers (lib/schema/sql/002-handlers.sql). */
interface Answer {
  done: number
  failures: { group: number; sqlstate: string; message: string; role: boolean }[]
}

/** Passes messages and connections to functions of the database's owner, in the transaction that publishes. */
export class FunctionCalls {
  readonly #options: FunctionCallsOptions
  readonly #functions: Record<string, string | undefined>

  constructor(options: FunctionCallsOptions) {
    this.#options = options
    const { onMessageFunction, onConnectFunction, onDisconnectFunction } = options
    const quoted = (name: string | undefined) => name && quoteFunctionName(name)
    this.#functions = {
      message: quoted(onMessageFunction),
      connect: quoted(onConnectFunction),
      disconnect: quoted(onDisconnectFunction)
    }
  }

  /**
   * Sends groups as BatchQueueOptions.send has it. A group that a function refuses comes out as Rejected or
   * RoleNotAllowed, and takes no other with it.
   * @param keyOf what makes a durable message that is sent again the same one
   */
  async send(
    groups: readonly (readonly Notification[])[],
    keyOf: (notification: Notification) => string
  ): Promise<readonly Outcome[]> {
    const batch = groups.slice(0, MAX_GROUPS)
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#send(batch, keyOf)
      } catch (error) {
        // Others are sent alone by whoever called us: one of them is at fault.
        if (!(error instanceof errors.NotAccepted) || batch.length > 1) throw error
        const cause = (error as Error).cause as pg.DatabaseError
        const sqlstate = cause.code ?? ''
        if (sqlstate.startsWith('40') && attempt < MAX_ATTEMPTS) continue
        // Not a function: what it raises is among the failures.
        if (IN_THE_WAY.test(sqlstate)) throw away(cause)
        if (NOT_THE_SENDERS.test(sqlstate) || isUntranslatable(error)) throw error
        return [rejected(messageOf(cause), sqlstate)]
      }
    }
  }

  async #send(
    groups: readonly (readonly Notification[])[],
    keyOf: (notification: Notification) => string
  ): Promise<readonly Outcome[]> {
    const items = groups.flatMap((group, index) => group.map((notification) => ({ notification, index })))
    const callers = groups.map((group) => group.find(({ call }) => call !== undefined)?.call?.caller)
    const { rows } = await this.#options.call(HANDLE, [
      this.#options.listenChannel,
      textArray(items.map(({ index }) => `${index + 1}`)),
      textArray(items.map(({ notification }) => notification.call?.kind ?? 'message')),
      textArray(items.map(({ notification: { call } }) => (call && this.#functions[call.kind]) ?? null)),
      textArray(items.map(({ notification }) => notification.channel)),
      textArray(items.map(({ notification }) => notification.payload)),
      textArray(items.map(({ notification }) => notification.databaseChannel ?? null)),
      textArray(
        items.map(({ notification }) =>
          notification.databaseChannel === undefined ? keyOf(notification) : null
        )
      ),
      textArray(callers.map((caller) => caller?.claims ?? null)),
      textArray(callers.map((caller) => caller?.role ?? null))
    ])
    const { done, failures } = rows[0]!.answer as Answer
    const outcomes = new Array<Outcome>(done).fill(undefined)
    for (const { group, sqlstate, message, role } of failures) {
      outcomes[group - 1] = role ? new errors.RoleNotAllowed() : rejected(message, sqlstate)
    }
    return outcomes
  }
}

/** A message that a function has refused; `sqlstate` as PostgreSQL has it. */
export type Rejection = Error & { sqlstate: string }

function rejected(message: string, sqlstate: string): Rejection {
  // A % is not ours to fill in.
  return Object.assign(new errors.Rejected('%s'), { message, sqlstate })
}
