import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { readOwnFile, writeOwnFile } from './own-file.js'
import { findPlaces } from './places.js'

const fileIn = (home: string) => join(home, 'jwt-secret')

/**
 * The default secret with the embedded database: a random one. It is stored beside the data, so that open pages resume
 * after a restart.
 * @param home the folder of the embedded database that only this user can write to
 */
export function keepSecret(home: string): string {
  const kept = readOwnFile(fileIn(home))
  if (kept) return kept
  const secret = randomBytes(32).toString('base64url')
  writeOwnFile(fileIn(home), secret)
  return secret
}

/**
 * The secret that a server has kept for its embedded database.
 * @param folder as for `startEmbeddedPostgres`
 * @returns undefined if no server has been started with this folder
 */
export function findSecret(folder: string): string | undefined {
  return readOwnFile(fileIn(findPlaces(folder).home)) || undefined
}
