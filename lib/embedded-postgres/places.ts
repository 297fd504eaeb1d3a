import { createHash } from 'node:crypto'
import { chmodSync, lchownSync, lstatSync, mkdirSync, readFileSync, renameSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { isAlive, readOwner } from './owner.js'

/** The user that runs PostgreSQL, which is not root. */
export interface User {
  uid: number
  gid: number
}

/** The folders and files of an embedded database. */
export interface Places {
  /**
   * The folder that only this server's user can write to: log, owner file, secret, binaries. If that is root, no file that
   * PostgreSQL's user could have created is trusted, and none of its symbolic links is followed.
   */
  home: string
  /** The folder of PostgreSQL's user, with the data. It is the same folder if both are the same user. */
  cluster: string
  data: string
  log: string
  owner: string
  sockets: string
  uri: string
  /** Undefined: the user of this process. */
  user: User | undefined
  /** The single folder that earlier versions used when root started them. */
  former: string | undefined
}

/**
 * Determines the places, without changing anything.
 * @param port the port of the server, if it is not PostgreSQL's default
 */
export function findPlaces(wanted: string, port?: string): Places {
  const folder = resolve(wanted)
  const user = process.getuid?.() === 0 ? unprivilegedUser() : undefined
  const id = createHash('sha256').update(folder).digest('hex').slice(0, 16)
  const home = user === undefined ? folder : join('/var/tmp', `pgws-${id}`)
  const cluster = user === undefined ? home : join(home, 'cluster')
  // The path of a socket has at most 107 bytes (unix(7)). The path of a checkout may be too long.
  const root = Buffer.byteLength(tmpdir()) < 50 && user === undefined ? tmpdir() : '/tmp'
  const sockets = join(root, `pgws-${user?.uid ?? process.getuid?.()}-${id}`)
  return {
    home,
    cluster,
    data: join(cluster, 'data'),
    log: join(home, 'postgres.log'),
    owner: join(home, 'owner.json'),
    sockets,
    uri: `postgresql://postgres@/postgres?host=${encodeURIComponent(sockets)}${port ? `&port=${port}` : ''}`,
    user,
    former: user && join('/var/tmp', `fastify-pg-websockets-${id}`)
  }
}

/** The user that PostgreSQL runs as if this process runs as root: `postgres` if it exists, otherwise `nobody`. */
function unprivilegedUser(): User {
  const users = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .map((line) => line.split(':'))
  for (const name of ['postgres', 'nobody']) {
    const [, , uid, gid] = users.find(([candidate]) => candidate === name) ?? []
    if (Number(uid) > 0) return { uid: Number(uid), gid: Number(gid) }
  }
  throw new Error(
    'PostgreSQL does not run as root, and there is no user "postgres" or "nobody" to run it as: start this server as another user, or set PGWS_DB_URI'
  )
}

/**
 * Creates the server's own folder and the folder of the socket.
 * @throws Error if they belong to another user, or if others may write to them
 */
export function prepareHome({ home, sockets, user }: Places): void {
  mkdirSync(home, { recursive: true, mode: 0o700 })
  const { mode } = checkFolder(home, process.getuid?.())
  if ((mode & 0o022) !== 0) throw new Error(`other users may write to ${home}: run chmod go-w on it`)
  // PostgreSQL's user must be able to enter it, to reach its folder and the binaries.
  if (user !== undefined) chmodSync(home, 0o711)
  makeFolder(sockets, user)
  if ((checkFolder(sockets, user?.uid ?? process.getuid?.()).mode & 0o077) !== 0) {
    throw new Error(`other users may access ${sockets}: remove it`)
  }
}

/**
 * Creates the folder of PostgreSQL's user, or takes over that of an earlier version.
 * @throws Error if a server of that version still uses it
 */
export function prepareCluster({ cluster, home, user, former }: Places): void {
  if (cluster === home) return
  const exists = lstatSync(cluster, { throwIfNoEntry: false }) !== undefined
  const old = former === undefined ? undefined : lstatSync(former, { throwIfNoEntry: false })
  if (!exists && old?.isDirectory() && old.uid === user?.uid) {
    const owner = readOwner(join(former!, 'owner.json'))
    if (owner !== undefined && isAlive(owner)) {
      throw new Error(
        `Another server (process ${owner.pid}) uses the embedded database in ${former}: stop it`
      )
    }
    renameSync(former!, cluster)
  }
  makeFolder(cluster, user)
  checkFolder(cluster, user?.uid)
}

/** Creates a folder for PostgreSQL's user, unless it exists. */
function makeFolder(folder: string, user: User | undefined): void {
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  // Only a folder that root has just created. PostgreSQL's user could replace its own folder by a symbolic link.
  if (user !== undefined && lstatSync(folder).uid === 0) lchownSync(folder, user.uid, user.gid)
}

/** Checks a folder. It may be in a folder that all users may write to, so another user may have created it. */
function checkFolder(folder: string, uid: number | undefined) {
  const stat = lstatSync(folder)
  if (!stat.isDirectory() || stat.uid !== uid) {
    throw new Error(
      `${folder} is not a folder of this user: remove it, or set PGWS_EMBEDDED_FOLDER to another folder`
    )
  }
  return stat
}
