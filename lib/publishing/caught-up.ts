/** Announces what was published from SQL first, because the sender of a message may have seen it committed. */
export const CAUGHT_UP = 'with caught_up as materialized (select pgws.catch_up())'
