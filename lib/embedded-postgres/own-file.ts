import { randomBytes } from 'node:crypto'
import { closeSync, constants, fstatSync, openSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { codeOf } from '../errors.js'

const { O_APPEND, O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_WRONLY } = constants

/** Others may neither read nor write it. */
const PRIVATE = 0o600

/**
 * Reads a file that nobody but its owner can have written or read.
 * @param uid the owner; by default the user that we are
 * @returns undefined where it is not there
 * @throws Error where it is a link, no regular file, somebody else's, or open to others: then it may have been put
 *   there by whoever can write to its folder
 */
export function readOwnFile(file: string, uid = process.getuid?.()): string | undefined {
  let descriptor: number
  try {
    // O_NONBLOCK: a pipe of that name would hold us up for ever.
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

/** Writes such a file: all of it, or nothing. What is there under its name is replaced, and never followed. */
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

/** Opens such a file to append to it. The descriptor is to be closed by the caller. */
export function appendToOwnFile(file: string): number {
  return openSync(file, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW, PRIVATE)
}
