import type { QueryResult } from 'pg'
import type { Random } from './random.js'

export type { Owner } from '../support/helper.js'

/** The servers and the database that are checked. */
export interface Target {
  /** Where writers connect to; another one after a failover. */
  readonly dbUri: string
  /** Any of the nodes. */
  node(random: Random): { http: string; ws: string }
  /** Runs a statement that may run twice, however often the database ends meanwhile. */
  query(text: string, values?: unknown[]): Promise<QueryResult>
}
