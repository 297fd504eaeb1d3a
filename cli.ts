#!/usr/bin/env node
import { resolve } from 'node:path'
import type { FastifyInstance } from 'fastify'
import { findRunningEmbedded } from './lib/embedded-postgres/index.js'
import { errors, fullMessageOf } from './lib/errors.js'
import { type ConnectionTarget, connect, parseConninfo, runSql } from './lib/postgres/index.js'
import { completeRoles, migrate } from './lib/schema/index.js'
import { readConfig } from './plugins/env.js'

/** npm and terminals may deliver one signal twice. One that comes this much later, in milliseconds, is a second signal. */
const SECOND_SIGNAL = 1000

const USAGE = `Usage:
  fastify-pg-websockets              start the server, configured by PGWS_* variables (see docs/options.md)
  fastify-pg-websockets sql "…"      run SQL on its database
  fastify-pg-websockets migrate      install or upgrade the schema "pgws" (durable channels) in its database
`

/** The command `fastify-pg-websockets`. */
async function main(words: string[]): Promise<void> {
  const [command, text, ...more] = words
  if (command === undefined) return serve()
  if (command === 'migrate' && text === undefined) return installSchema()
  if (command === 'sql' && text !== undefined && more.length === 0) return sql(text)
  const asked = command === '--help' || command === '-h' || command === 'help'
  ;(asked ? process.stdout : process.stderr).write(USAGE)
  process.exitCode = asked ? 0 : 2
}

async function serve(): Promise<void> {
  // The other commands do without what only a server needs.
  const { makeServer, startServer } = await import('./server.js')
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
  // The first onReady hook: a signal may have come before the plugin was registered.
  fastify.addHook('onReady', async () => {
    if (end.begun) throw new errors.ShuttingDown()
  })
  if (process.env.npm_command === 'exec') endWithParent(end)
  try {
    await startServer(server, (error) => end(fullMessageOf(error)))
  } catch (error) {
    if (end.begun && error instanceof errors.ShuttingDown) return
    process.exitCode = 1
    process.stderr.write(`fastify-pg-websockets could not start: ${fullMessageOf(error)}\n`)
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
  return Object.defineProperty(end, 'begun', { get: () => begun !== undefined }) as Ending
}

/**
 * Ends the server when its parent has ended. `npx` runs a shell, which runs this process. A shell that waits for it
 * (dash) is ended by the signal, and does not forward it.
 */
function endWithParent(end: (reason: string) => void): void {
  const parent = process.ppid
  setInterval(() => {
    if (process.ppid !== parent) end('npx exited')
  }, 200).unref()
}

async function sql(text: string): Promise<void> {
  await runSql(await connect(await targets()), text)
}

async function installSchema(): Promise<void> {
  const { listenChannel } = await readConfig(process.env, 'command')
  const client = await connect(await targets())
  try {
    const { from, to } = await migrate(client, listenChannel!)
    process.stdout.write(
      from === to ? `The schema is up to date (version ${to}).\n` : `Installed version ${to}.\n`
    )
    const missing = await completeRoles(client)
    if (missing.length > 0) process.stdout.write(rolesAdvice(missing))
  } finally {
    await client.end()
  }
}

function rolesAdvice(missing: readonly string[]): string {
  return `
This role may not create the roles of the schema "pgws", or grant them what they need. Run as a superuser in this database:

${missing.map((statement) => `  ${statement};\n`).join('')}
If only roles are missing, you can also create them and run this command again.
Then grant pgws_server to the server's role, and pgws_publisher to roles that call pgws.publish.
`
}

/** Where the database is: the configured one (not through a pooler), or the running embedded one. */
async function targets(): Promise<ConnectionTarget[]> {
  const { dbUri, listenerUri, embeddedFolder } = await readConfig(process.env, 'command')
  const uri = listenerUri ?? dbUri ?? findRunningEmbedded(resolve(embeddedFolder))
  if (uri === undefined) {
    throw new Error(
      'no embedded database is running: start the server first, or set PGWS_DB_URI to your database'
    )
  }
  return parseConninfo(uri)
}

main(process.argv.slice(2)).catch((error) => {
  process.stderr.write(`${fullMessageOf(error)}\n`)
  process.exitCode = 1
})
