import { createRequire } from 'node:module'
import { dirname } from 'node:path'

/** The checkout's folder: tests are in `test/`, and compiled in `dist/test/`. */
export const root = dirname(createRequire(import.meta.url).resolve('fastify-pg-websockets/package.json'))
