import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import { fullMessageOf } from '../../lib/errors.js'
import { makeServer, startServer } from '../../server.js'
import { type Owner, until } from './helper.js'
import { root } from './root.js'

/** The built command. */
export const CLI = join(root, 'dist/cli.js')

/** Files that reserve ports, so that no two tests get the same one before their servers have started. */
const RESERVED = join(tmpdir(), 'pgws-test-ports')

/** The files of this process. */
const reserved: string[] = []

/** How long a reservation is respected if its process was killed, in milliseconds. */
const RESERVATION = 30 * 60_000

/** Reserves a port for this process, among all tests of this machine. Returns false if another one has it. */
function reserve(port: number): boolean {
  mkdirSync(RESERVED, { recursive: true })
  const file = join(RESERVED, String(port))
  try {
    const { mtimeMs } = statSync(file)
    if (Date.now() - mtimeMs > RESERVATION) rmSync(file, { force: true })
  } catch {
    // It is not reserved.
  }
  try {
    writeFileSync(file, '', { flag: 'wx' })
  } catch {
    return false
  }
  if (reserved.length === 0)
    process.once('exit', () => {
      for (const one of reserved) rmSync(one, { force: true })
    })
  reserved.push(file)
  return true
}

/** Finds a free port. It is below the system's ephemeral ports, because an outgoing connection could take one of those. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 20_000)
    if (!reserve(port)) continue
    const server = createServer().listen(port, '127.0.0.1')
    const free = await once(server, 'listening').then(
      () => true,
      () => false
    )
    if (!free) continue
    server.close()
    await once(server, 'close')
    return port
  }
}

export interface App {
  child: ChildProcess
  port: number
  http: string
  ws: string
  output: () => string
  exit: Promise<number | null>
}

/** Runs the command in an empty folder, with an environment of its own. */
export async function run(
  t: Owner,
  environment: Record<string, string>,
  args: string[] = [],
  cli = CLI
): Promise<App> {
  const port = await freePort()
  const cwd = mkdtempSync(join(tmpdir(), 'pgws-cwd-'))
  t.teardown(() => rmSync(cwd, { recursive: true, force: true }))
  const child = spawn(process.execPath, [cli, ...args], {
    cwd,
    env: { PATH: process.env.PATH, HOME: cwd, PGWS_PORT: String(port), ...environment }
  })
  t.teardown(async () => {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill('SIGKILL')
      await once(child, 'exit')
    }
  })
  let text = ''
  child.stdout.on('data', (chunk) => (text += chunk))
  child.stderr.on('data', (chunk) => (text += chunk))
  const exit = once(child, 'close').then(([code]) => code as number | null)
  return {
    child,
    port,
    http: `http://127.0.0.1:${port}`,
    ws: `ws://127.0.0.1:${port}`,
    output: () => text,
    exit
  }
}

/** Waits until the server listens. */
export async function started(app: App): Promise<App> {
  await until(() => app.output().includes('Server listening') || app.child.exitCode !== null)
  if (app.child.exitCode !== null) throw new Error(app.output())
  return app
}

/** A server that runs in this process. */
export interface InProcess extends Pick<App, 'port' | 'http' | 'ws' | 'output'> {
  close(): Promise<void>
}

/**
 * Starts the command's server in this process, without the command's handling of signals and exit codes. It listens on a
 * free port unless the environment names one.
 */
export async function serve(t: Test, environment: Record<string, string>): Promise<InProcess> {
  let output = ''
  const log = { write: (line: string) => (output += line) }
  const server = await makeServer({ PGWS_PORT: '0', ...environment }, log)
  const { fastify } = server
  t.teardown(() => fastify.close())
  try {
    await startServer(server, () => {})
  } catch (error) {
    throw new NotStarted(error, output)
  }
  const { port } = fastify.server.address() as AddressInfo
  return {
    port,
    http: `http://127.0.0.1:${port}`,
    ws: `ws://127.0.0.1:${port}`,
    output: () => output,
    close: () => fastify.close()
  }
}

class NotStarted extends Error {
  readonly output: string
  constructor(error: unknown, log: string) {
    super(fullMessageOf(error))
    this.output = `${log}${this.message}\n`
  }
}

/** Returns the output of a server that must fail to start. Its error is at the end. See `serve`. */
export async function refused(t: Test, environment: Record<string, string>): Promise<string> {
  try {
    const { close } = await serve(t, environment)
    await close()
  } catch (error) {
    return error instanceof NotStarted ? error.output : `${fullMessageOf(error)}\n`
  }
  throw new Error(`a server started, though it had to be refused: ${Object.keys(environment)}`)
}

/** Requests a new token, as the sample page does. */
export const refresh = (http: string, token: string) =>
  fetch(`${http}/token`, { method: 'POST', headers: { authorization: `Bearer ${token}` } })
