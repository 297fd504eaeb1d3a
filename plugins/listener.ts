import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import type pg from 'pg'
import { callsFunctions, checkFunctions, type Revocations } from '../lib/auth/index.js'
import { OUTDATED } from '../lib/clients/index.js'
import type { ResolvedOptions } from '../lib/config/index.js'
import type { SchemaState } from '../lib/durable/index.js'
import { errors, isRefusal, messageOf } from '../lib/errors.js'
import { Gateway } from '../lib/gateway.js'
import { checkCanListen, Listener, type ListenerEvent } from '../lib/listener/index.js'
import { type ConnectionTarget, connect } from '../lib/postgres/index.js'
import { completeRoles, excessOf, migrate } from '../lib/schema/index.js'
import type { VerifyToken } from './jwt.js'
import type { Pool } from './postgres.js'

/** How often the log reports what the start waits for, if that has changed, in milliseconds. */
const REPORT_INTERVAL = 500

/** How long before Fastify's timeout for the hook the attempts end, without supervision, in milliseconds. */
const HOOK_MARGIN = 500

/**
 * Decorates the instance with `pgws`, or the name in the option `decorator`. The supervisor starts in onReady and ends in
 * onClose. Websockets are closed in preClose.
 * @param fastify the instance to decorate
 * @param targets the servers to which the listener connects, in the order in which they are tried
 * @param pools `pool` publishes, `sequencerPool` announces what was published from SQL
 * @param tokens `verifyToken` verifies the tokens of clients that send them after their request; it refuses `revocations`
 */
export function decorateGateway(
  fastify: FastifyInstance,
  options: ResolvedOptions,
  targets: ConnectionTarget[],
  { pool, sequencerPool }: { pool: Pool; sequencerPool: Pool },
  { verifyToken, revocations }: { verifyToken: VerifyToken; revocations: Revocations }
): Gateway {
  const { log } = fastify
  let lastFailure: string | undefined
  let reporter: NodeJS.Timeout | undefined
  let starting = true
  /** Whether the schema was too old or too new when it was last read. */
  let incompatible = false
  /** This server has become too old for the schema. */
  let outdated: Error | undefined
  const open = () =>
    connect(targets, {
      application_name: 'fastify-pg-websockets listener',
      keepAlive: true,
      keepAliveInitialDelayMillis: 10_000
    })
  const listener = new Listener({
    connect: open,
    check: (client) => checkCanListen(client, open),
    prepare,
    checkInterval: options.checkListenerInterval,
    retries: options.retries,
    onProbe: (): (() => void) => gateway.listenerProbed(),
    onEvent
  })
  const gateway: Gateway = new Gateway({
    ...options,
    query: pool.query,
    sequencerQuery: sequencerPool.query,
    call: pool.call,
    verifyToken,
    revocations,
    onSchema,
    listener,
    log
  })
  // The types declare the decorator with its default name.
  fastify.decorate(options.decorator as 'pgws', gateway.bridge)

  fastify.addHook('onReady', start)
  fastify.addHook('preClose', () => {
    clearInterval(reporter)
    return gateway.close()
  })
  fastify.addHook('onClose', () => listener.close())
  return gateway

  async function prepare(client: pg.Client): Promise<void> {
    if (options.migrate) {
      const { from, to } = await migrate(client, options.listenChannel)
      if (from < to) {
        const text = `installed version ${to} of the schema "pgws"`
        log.info(text)
        gateway.events.add('migration', { text, reason: from === 0 ? 'installed' : 'migrated' })
      }
      const missing = await completeRoles(client)
      if (missing.length > 0) {
        log.warn(
          `this role may not create the roles of the schema "pgws", or grant them what they need; run as a superuser: ${missing.join('; ')}`
        )
      }
    }
    await checkFunctions(client, options)
  }

  async function start(): Promise<void> {
    let refuse!: (error: Error) => void
    const refused = new Promise<never>((_, reject) => {
      refuse = reject
    })
    refused.catch(() => {})
    const started = gateway.start((error) => {
      // Waiting does not help if the database refuses the role. It may help if the database is unavailable.
      if (starting && isRefusal(error)) refuse(asStartError(error))
    })
    // If the start no longer waits for it, the log reports a failure.
    started.then(
      () => {
        clearInterval(reporter)
        if (callsFunctions(options)) warnOfExcess()
      },
      (error) => {
        clearInterval(reporter)
        // The database has come back, and the bus cannot be used.
        if (!starting && !gateway.closing && isMisconfigured(error)) {
          log.fatal({ err: error }, `closing: ${messageOf(error)}`)
          end(error)
        }
      }
    )
    let reported = ''
    reporter = setInterval(() => {
      const awaited = gateway.awaited.join(' and ')
      if (awaited !== reported && awaited !== '') log.warn(`startup is waiting for ${awaited}`)
      reported = awaited
    }, REPORT_INTERVAL)
    try {
      await Promise.race([refused, gateway.bridge.cancelled, waitFor(started)])
      starting = false
      if (outdated !== undefined) throw outdated
    } catch (error) {
      clearInterval(reporter)
      throw error
    }
  }

  async function warnOfExcess(): Promise<void> {
    const excess = await excessOf(pool.query).catch(() => undefined)
    if (excess !== undefined) log.warn(excess)
  }

  async function waitFor(started: Promise<void>): Promise<void> {
    if (options.checkListenerInterval > 0) {
      // The supervisor keeps trying. Health reports 503 until it succeeds.
      await Promise.race([started, sleep(options.readyTimeout, undefined, { ref: false })])
      return
    }
    const { pluginTimeout } = fastify.initialConfig
    if (!pluginTimeout) return started
    const late = sleep(pluginTimeout - HOOK_MARGIN, 'late' as const, { ref: false })
    if ((await Promise.race([started, late])) === 'late') {
      throw new Error(
        `Could not listen to the database within Fastify's pluginTimeout (${pluginTimeout} ms): ${lastFailure ?? gateway.awaited.join(' and ')}`
      )
    }
  }

  function onSchema({ status, error }: SchemaState): void {
    addSchemaEvent(status, error)
    if (error === undefined) return
    if (status === 'too new') leave(error)
    // During the start, the start itself reports it.
    else if (gateway.awaited.length === 0) log.error({ err: error }, messageOf(error))
  }

  /** Adds an event for a change, but not for a schema that fits from the start. */
  function addSchemaEvent(status: SchemaState['status'], error: Error | undefined): void {
    const text =
      error === undefined ? 'the schema "pgws" and this server are compatible again' : messageOf(error)
    if (error !== undefined || incompatible) {
      const level = error === undefined ? 'info' : 'error'
      gateway.events.add('schema', { level, text, reason: status.replace(' ', '-') })
    }
    incompatible = error !== undefined
  }

  /** Shuts down because the schema is too new for this server. Other servers take its clients. */
  async function leave(error: Error): Promise<void> {
    if (outdated !== undefined) return
    outdated = error
    // The start itself fails then.
    if (starting) return
    log.fatal({ err: error }, `closing: ${messageOf(error)}`)
    await gateway.close(OUTDATED)
    end(error)
  }

  function end(error: Error): void {
    gateway.bridge.emit('lost', error)
    fastify.close().catch((error) => log.error({ err: error }, 'could not shut down cleanly'))
  }

  function onEvent(event: ListenerEvent): void {
    switch (event.type) {
      case 'listening':
        log.info('listening to the database')
        break
      case 'relistening':
        log.warn(
          { gap: event.gap },
          `listening to the database again; notifications of the last ${event.gap} ms may be lost`
        )
        gateway.events.add('listener-reconnected', {
          text: `listening to the database again; notifications of the last ${event.gap} ms may be lost`,
          reason: 'reconnected'
        })
        gateway.listenerReconnected(event.gap)
        break
      case 'attempt failed':
        lastFailure = messageOf(event.error)
        // The start itself fails with this error, which is then reported.
        if (starting && event.attempt === 1 && event.wait === undefined) break
        log.warn(
          { err: event.error, attempt: event.attempt },
          event.wait === undefined
            ? `could not listen to the database in ${event.attempt} attempts: ${lastFailure}`
            : `could not listen to the database, trying again in ${Math.round(event.wait)} ms: ${lastFailure}`
        )
        break
      case 'connection lost':
        log.error({ err: event.error }, `the listener's connection was lost: ${event.error.message}`)
        gateway.events.add('listener-lost', {
          text: `the listener's connection was lost: ${event.error.message}`,
          reason: 'lost'
        })
        gateway.listenerLost()
        // The connections of the pool probably broke for the same reason.
        pool.recycle()
        sequencerPool.recycle()
        break
      case 'lost':
        // The start itself fails then.
        if (starting) break
        if (event.error instanceof errors.SchemaTooNew) {
          leave(event.error)
          break
        }
        log.fatal(
          { err: event.error },
          options.checkListenerInterval > 0
            ? `the listener has ended, closing: ${event.error.message}`
            : `the listener's connection was lost, closing: ${event.error.message} (set checkListenerInterval to reconnect instead)`
        )
        end(event.error)
        break
      case 'channel refused':
        log.error({ err: event.error, channel: event.channel }, event.error.message)
        break
      case 'handler failed':
        log.error({ err: event.error }, 'a handler of pgws.listen() threw')
        break
    }
  }
}

/** Whether the start failed for something that somebody must mend first. What the listener says of it is an event. */
function isMisconfigured(error: unknown): boolean {
  return error instanceof errors.InvalidOption || error instanceof errors.NotInstalled
}

/** The cause of an error, without its meaning for clients. */
function asStartError(error: Error): Error {
  return error.cause instanceof Error && !(error instanceof errors.MissingGrant) ? error.cause : error
}
