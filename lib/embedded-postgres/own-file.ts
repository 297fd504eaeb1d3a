import { randomBytes } from 'node:crypto'
import { closeSync, constants, fstatSync, openSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { codeOf } from '../thrown.js'

const { O_APPEND, O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_WRONLY } = constants

/** Only the owner may read and write it. */
const PRIVATE = 0o600

/**
 * Reads a file that only its owner can read and write.
 * @param uid the owner. Default: the user of this process
 * @returns the contents; undefined if the file does not exist
 * @throws Error if it is a symbolic link, not a regular file, owned by another user, or accessible to others, because
 *   another user may have created it then
 */
export function readOwnFile(file: string, uid = process.getuid?.()): string | undefined {
  let descriptor: number
  try {
    // O_NONBLOCK: opening a pipe of that name would block forever.
    descriptor = openSync(file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
  } catch (error) {
    const code = codeOf(error)
    if (code === 'ENOENT') return undefined
    throw code === 'ELOOP' ? new Error(`${file} is a symbolic link: remove it`) : error
  }
  try {
    const stat = fstatSync(descriptor)
    if (!stat.isFile() || stat.uid !== uid) throw new Error(`${file} is not a file of this user: remove it`)
    if ((stat.mode & 0o077) !== 0)
      throw new Error(`other users may access ${file}: remove it, or run chmod 600 on it`)
    return readFileSync(descriptor, 'utf8')
  } finally {
    closeSync(descriptor)
  }
}

/** Writes such a file atomically. An existing file or symbolic link of that name is replaced, never followed. */
export function writeOwnFile(file: string, text: string): void {
  const temporary = `${file}.${randomBytes(6).toString('hex')}`
  const descriptor = openSync(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, PRIVATE)
  try {
    writeFileSync(descriptor, text)
  } finally {
    closeSync(descriptor)
  }
  renameSync(temporary, file)
}

/** Opens such a file to append to it. The caller must close the descriptor. */
export function appendToOwnFile(file: string): number {
  return openSync(file, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW, PRIVATE)
}
