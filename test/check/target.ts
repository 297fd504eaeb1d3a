import type { QueryResult } from 'pg'
import type { Random } from './random.js'

export type { Owner } from '../support/helper.js'

/** The servers and the database that are checked. */
export interface Target {
  /** The connection string for writers. It changes after a failover. */
  readonly dbUri: string
  /** Any of the nodes. */
  node(random: Random): { http: string; ws: string }
  /** Runs a statement, which must be safe to run twice. Repeats it while the database is unavailable. */
  query(text: string, values?: unknown[]): Promise<QueryResult>
}
