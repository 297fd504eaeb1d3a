import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import fp from 'fastify-plugin'
import { serveApp, serverOptions } from './app.js'
import { listenError, listenTargets, readCertificate } from './lib/config/index.js'
import { codeOf } from './lib/errors.js'
import { type Config, readConfig } from './plugins/env.js'

/**
 * How many connections may wait to be accepted, so that the kernel drops none when all clients reconnect at once. Node's
 * default is 511. Linux limits it by net.core.somaxconn
 * (https://docs.kernel.org/networking/ip-sysctl.html), which is 4096 by default, too.
 */
const BACKLOG = 4096

/** A server that has not started. */
export interface Server {
  fastify: FastifyInstance
  config: Config
  environment: NodeJS.ProcessEnv
}

/**
 * Creates the server that the command runs.
 * @param environment its `PGWS_*` variables
 * @param log receives the log as JSON. Default: standard output, as JSON, or as readable text if it is a terminal
 * @throws Error that names each variable that is missing or malformed, or a certificate that cannot be read
 */
export async function makeServer(
  environment: NodeJS.ProcessEnv,
  log?: { write(line: string): void }
): Promise<Server> {
  const config = await readConfig(environment)
  const { certificateFile, keyFile } = config
  const https = certificateFile && keyFile ? readCertificate(certificateFile, keyFile) : undefined
  const { logger, ...options } = serverOptions(config, https)
  const stream = log ?? (process.stdout.isTTY ? await terminalLog() : undefined)
  const written = { ...logger, ...(stream && { stream }) }
  // Fastify's types depend on TLS and the logger, which are known only at run time.
  const fastify = Fastify({ ...options, logger: written } as FastifyServerOptions) as FastifyInstance
  return { fastify, config, environment }
}

/**
 * Writes log lines for people. The library is loaded only at a terminal. Its stream is not used, because it would write
 * later than other output of this process.
 */
async function terminalLog(): Promise<{ write(line: string): void }> {
  const { prettyFactory } = (await import('pino-pretty')).default
  const format = prettyFactory({
    colorize: process.stdout.hasColors(),
    ignore: 'pid,hostname',
    translateTime: 'SYS:HH:MM:ss',
    singleLine: true
  })
  return { write: (line) => process.stdout.write(format(line)) }
}

/**
 * Starts the server. Resolves when it listens.
 * @param onLost is called when the listening connection is lost and nothing replaces it
 * @throws the error of the start. The server must be closed then.
 */
export async function startServer(
  { fastify, config, environment }: Server,
  onLost: (error: unknown) => void
): Promise<void> {
  // fp(): without a scope of its own, so that `fastify.pgws` is visible here.
  fastify.register(fp(serveApp), { environment })
  await fastify.ready()
  fastify.pgws.once('lost', onLost)
  await listen(fastify, config)
}

async function listen(fastify: FastifyInstance, { host, port }: Config): Promise<void> {
  const targets = listenTargets(host)
  for (const [index, target] of targets.entries()) {
    try {
      await fastify.listen({ ...target, port, backlog: BACKLOG })
      return
    } catch (error) {
      const code = codeOf(error)
      const familyMissing = code === 'EAFNOSUPPORT' || code === 'EADDRNOTAVAIL'
      if (!familyMissing || index === targets.length - 1) throw listenError(error, host, port)
    }
  }
}
