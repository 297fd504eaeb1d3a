import { createRequire } from 'node:module'

/** The version of this package. By its own name, so that it is found from the sources and from dist/ alike. */
export const VERSION: string = createRequire(import.meta.url)('fastify-pg-websockets/package.json').version
