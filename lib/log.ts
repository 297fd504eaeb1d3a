/** The part of a logger (pino's, https://getpino.io/#/docs/api?id=logger) that is used here. */
export interface Log {
  debug(fields: object, message: string): void
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
}
