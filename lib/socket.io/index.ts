export { createAdapter, PostgresAdapter } from './adapter.js'
export type { AdapterOptions } from './options.js'
