import { randomBytes, scrypt, timingSafeEqual } from 'node:crypto'
import { promisify } from 'node:util'

const hash = promisify(scrypt)

/** In your application, a table. */
const users = new Map()
for (const [name, rooms] of [
  ['alice', ['lobby', 'staff']],
  ['bob', ['lobby']]
]) {
  const salt = randomBytes(16)
  users.set(name, { salt, hash: await hash(`${name}-demo`, salt, 32), rooms })
}
const nobody = { salt: randomBytes(16), hash: randomBytes(32), rooms: [] }

/** The user, or undefined where the name or the password is wrong. Both take the same time. */
export async function verifyUser(name, password) {
  const user = users.get(name) ?? nobody
  if (!timingSafeEqual(await hash(password, user.salt, 32), user.hash)) return undefined
  return { name, rooms: user.rooms }
}
