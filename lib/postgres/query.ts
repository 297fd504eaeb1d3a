import type pg from 'pg'

/** The rows that a statement returns, by the names of their columns. */
export interface Rows<Row = Record<string, unknown>> {
  rows: Row[]
}

/**
 * Runs one statement with its parameters. Rejects with DatabaseUnavailable where it surely was not committed, NotAccepted
 * where the database refused it, OutcomeUnknown where it may have been committed.
 */
export type Query = <Row = Record<string, unknown>>(text: string, values?: unknown[]) => Promise<Rows<Row>>

/** A Query of node-postgres, which tells more of its result. */
export type PgQuery = (text: string, values?: unknown[]) => Promise<pg.QueryResult>
