import type { FastifyInstance } from 'fastify'
import { errors, fullMessageOf, unnamedMessageOf } from '../lib/errors.js'
import { watchNpx } from '../lib/parent-process.js'
import { makeServer, startServer } from '../server.js'

/** npm and terminals may deliver one signal twice. One that comes this much later, in milliseconds, is a second signal. */
const SECOND_SIGNAL = 1000

/** Runs the server until a signal ends it. */
export async function serve(): Promise<void> {
  const server = await makeServer(process.env)
  const { fastify, config } = server
  const end = ending(fastify, config.shutdownTimeout!)
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => end(signal))
  const fail = (error: unknown) => {
    process.exitCode = 1
    fastify.log.fatal({ err: error }, 'uncaught error')
    end('uncaught error')
  }
  process.on('uncaughtException', fail)
  process.on('unhandledRejection', fail)
  // This is the first onReady hook, because a signal may have arrived before the plugin was registered.
  fastify.addHook('onReady', async () => {
    if (end.begun) throw new errors.ShuttingDown()
  })
  watchNpx(() => end('npx exited'))
  try {
    await startServer(server, (error) => end(fullMessageOf(error)))
  } catch (error) {
    if (end.begun && error instanceof errors.ShuttingDown) return
    process.exitCode = 1
    process.stderr.write(`fastify-pg-websockets could not start: ${unnamedMessageOf(error)}\n`)
    end('start failed')
  }
}

interface Ending {
  (reason: string): void
  /** Whether the server is ending. */
  readonly begun: boolean
}

/**
 * Returns a function that shuts the server down, and then ends the process with `process.exitCode`. A second signal ends
 * the process immediately.
 */
function ending(fastify: FastifyInstance, timeout: number): Ending {
  let begun: number | undefined
  const end = (reason: string) => {
    if (begun !== undefined) {
      if (performance.now() - begun < SECOND_SIGNAL || !reason.startsWith('SIG')) return
      fastify.log.error(`${reason} again: exiting immediately`)
      process.exit(1)
    }
    begun = performance.now()
    fastify.log.info(`${reason}: shutting down`)
    setTimeout(() => {
      fastify.log.error(`could not shut down within ${timeout} ms: exiting`)
      process.exit(1)
    }, timeout).unref()
    // close() would wait for a start that is in progress.
    if (fastify.hasDecorator('pgws')) fastify.pgws.cancelStart()
    fastify
      .close()
      .catch((error) => {
        process.exitCode = 1
        fastify.log.error(error)
      })
      .finally(() => process.exit())
  }
  // The types do not know what defineProperty() adds.
  return Object.defineProperty(end, 'begun', { get: () => begun !== undefined }) as Ending
}
