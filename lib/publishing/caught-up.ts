/** Whoever sends something may have seen committed what was published from SQL: that goes first. */
export const CAUGHT_UP = 'with caught_up as materialized (select pgws.catch_up())'
