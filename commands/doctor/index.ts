import { resolve } from 'node:path'
import { type ResolvedOptions, readCertificate, resolveOptions } from '../../lib/config/index.js'
import { findBinaries, findRunningEmbedded } from '../../lib/embedded-postgres/index.js'
import { pluginOptions, readConfig } from '../../plugins/env.js'
import { type Command, expectNone } from '../command.js'
import { checkBus } from './bus.js'
import { checkClock } from './clock.js'
import { checkVersion, type Reached, reach } from './connection.js'
import { checkKeys } from './keys.js'
import { checkListening } from './listening.js'
import { Report } from './report.js'
import { checkSchema } from './schema.js'

export const doctorCommand: Command = {
  help: `Usage: fastify-pg-websockets doctor

Checks, with the configuration of the server (PGWS_* variables, and a file .env), what usually goes wrong: the
configuration itself, the keys that verify tokens, the connection to the database, its version, a pooler (PgBouncer), a
notification's way there and back, the schema "pgws", the role and its grants, NATS (PGWS_BUS), and the clock. Each line
says OK, warning or error, and what to do. Nothing is changed, and no secret is printed. The exit code is 1 if there is an error.
`,
  async run(args) {
    expectNone(args)
    if (!(await examine(process.env, process.stdout))) process.exitCode = 1
  }
}

/**
 * Runs all checks, and prints their results.
 * @param environment the server's variables; a file .env adds to them
 * @returns whether there is no error
 */
export async function examine(environment: NodeJS.ProcessEnv, out: NodeJS.WritableStream): Promise<boolean> {
  const report = new Report(out)
  const read = await report.attempt('configuration', () => configuration(report, environment))
  if (read !== undefined) {
    if (read.ownSecret) report.ok('keys', 'a random secret, which is stored beside the embedded database')
    else await checkKeys(report, read.options)
    if (read.embedded && !read.running) notRunning(report)
    else await checkDatabase(report, read)
  }
  report.end()
  return !report.failed
}

interface Read {
  options: ResolvedOptions
  /** Whether no database is configured. */
  embedded: boolean
  running: boolean
  /** Whether no key is configured, so that the server makes one. */
  ownSecret: boolean
}

/** @throws Error that names every variable that is missing, malformed or misspelled */
async function configuration(report: Report, environment: NodeJS.ProcessEnv): Promise<Read> {
  const warn = (text: string) => report.warning('configuration', text)
  const config = await readConfig(environment, 'server', warn)
  const { dbUri, certificateFile, keyFile } = config
  if (certificateFile && keyFile) readCertificate(certificateFile, keyFile)
  const folder = resolve(config.embeddedFolder)
  const uri = dbUri ?? findRunningEmbedded(folder)
  if (uri === undefined) findBinaries()
  const ownSecret = dbUri === undefined && config.jwtSecret === undefined && config.jwksUrl === undefined
  const options = resolveOptions({
    ...pluginOptions(config),
    dbUri: uri ?? 'none',
    ...(ownSecret && { jwtSecret: 'none' })
  })
  report.ok('configuration', 'the variables are valid')
  return { options, embedded: dbUri === undefined, running: uri !== undefined, ownSecret }
}

function notRunning(report: Report): void {
  report.warning(
    'connection',
    'PGWS_DB_URI is not set, and the embedded database is not running: start the server to check it, or set PGWS_DB_URI'
  )
}

async function checkDatabase(report: Report, { options, embedded }: Read): Promise<void> {
  const { dbUri, listenerUri } = options
  const publisher = await reach(report, embedded ? 'embedded database' : 'PGWS_DB_URI', dbUri)
  const listener =
    listenerUri === undefined ? publisher : await reach(report, 'PGWS_LISTENER_URI', listenerUri)
  try {
    if (publisher === undefined) return
    await report.attempt('version', () => checkVersion(report, publisher))
    if (listener !== undefined) await checkListening(report, publisher, listener)
    await checkSchema(report, publisher, options, embedded)
    await report.attempt('bus', () => checkBus(report, publisher, options))
    await report.attempt('clock', () => checkClock(report, publisher))
  } finally {
    await end(publisher, listener)
  }
}

async function end(...reached: (Reached | undefined)[]): Promise<void> {
  await Promise.all([...new Set(reached)].map((one) => one?.client.end()))
}
