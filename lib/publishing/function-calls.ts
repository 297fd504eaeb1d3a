import type pg from 'pg'
import { quoteFunctionName, type SqlFunctions } from '../auth/index.js'
import { errors, isUntranslatable, messageOf } from '../errors.js'
import { type Rows, textArray, unavailable } from '../postgres/index.js'
import type { Notification, Outcome } from './batch-queue.js'
import { CAUGHT_UP } from './caught-up.js'

/**
 * The maximum number of groups in one transaction. Each is a subtransaction, and PostgreSQL keeps 64 of a session in shared
 * memory (PGPROC_MAX_CACHED_SUBXIDS). More would slow down all other sessions.
 */
const MAX_GROUPS = 60

/** How often a call is retried after a conflict of transactions. */
const MAX_ATTEMPTS = 5

/**
 * SQLSTATE classes (errcodes-appendix.html) that are not the sender's fault: resources, operator, system. A statement that
 * took too long (57014) is not among them, because the function itself took that long.
 */
const NOT_THE_SENDERS = /^(?:53|57P|58|XX)/

/** A lock that is not available, and a read-only database. These are retried while the message may wait. */
const TEMPORARY = /^(?:55P03|25006)/

export interface FunctionCallsOptions extends SqlFunctions {
  listenChannel: string
  /** Runs one statement in a transaction of its own. Rejects with the same errors as `GatewayOptions.call`. */
  call: (text: string, values: unknown[]) => Promise<Rows<{ answer: Answer }>>
}

/** Sets the timeout to 0, because the session must not time out before the commit. The end of the transaction resets it. */
const HANDLE = `${CAUGHT_UP} select h.answer, pg_catalog.set_config('idle_in_transaction_session_timeout', '0', true)
  from (
    select pgws.handle($1, $2::pg_catalog.text[]::integer[], $3::pg_catalog.text[], $4::pg_catalog.text[], $5::pg_catalog.text[],
      $6::pg_catalog.text[], $7::pg_catalog.text[], $8::pg_catalog.text[], $9::pg_catalog.text[],
      $10::pg_catalog.text[]) as answer
    from caught_up offset 0
  ) h`

/** The result of `pgws.handle` (lib/schema/sql/002-handlers.sql). */
interface Answer {
  done: number
  failures: { group: number; sqlstate: string; message: string; role: boolean }[]
}

/** Passes messages, connections and disconnections to SQL functions, in the transaction that publishes the results. */
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
   * Sends groups; see BatchQueueOptions.send. A group that a function refuses ends with Rejected or RoleNotAllowed, and does
   * not affect the others.
   * @param keyOf returns the idempotency key of a durable message
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
        // The caller sends several groups one by one, because one of them causes the error.
        if (!(error instanceof errors.NotAccepted) || batch.length > 1) throw error
        // `query` and `call` reject with NotAccepted only for errors of the database.
        const cause = error.cause as pg.DatabaseError
        const sqlstate = cause.code ?? ''
        if (sqlstate.startsWith('40') && attempt < MAX_ATTEMPTS) continue
        // Not an error of a function, because these are among the failures.
        if (TEMPORARY.test(sqlstate)) throw unavailable(cause)
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
    const { done, failures } = rows[0]!.answer
    const outcomes = new Array<Outcome>(done).fill(undefined)
    for (const { group, sqlstate, message, role } of failures) {
      outcomes[group - 1] = role ? new errors.RoleNotAllowed() : rejected(message, sqlstate)
    }
    return outcomes
  }
}

/** The error of a message that a function refused, with the function's SQLSTATE. */
export type Rejection = Error & { sqlstate: string }

function rejected(message: string, sqlstate: string): Rejection {
  // The message may contain a %, which @fastify/error would replace.
  return Object.assign(new errors.Rejected('%s'), { message, sqlstate })
}
