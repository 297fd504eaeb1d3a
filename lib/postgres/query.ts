import type pg from 'pg'

/** The rows that a statement returns, as objects with the names of the columns. */
export interface Rows<Row = Record<string, unknown>> {
  rows: Row[]
}

/**
 * Runs one statement with its parameters. Rejects with DatabaseUnavailable if it was not committed, NotAccepted if the
 * database refused it, OutcomeUnknown if it may have been committed.
 */
export type Query = <Row = Record<string, unknown>>(text: string, values?: unknown[]) => Promise<Rows<Row>>

/** A Query with the full result of node-postgres. */
export type PgQuery = (text: string, values?: unknown[]) => Promise<pg.QueryResult>
