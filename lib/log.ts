/** The methods of pino's logger (https://getpino.io/#/docs/api?id=logger) that lib/ uses. */
export interface Log {
  debug(fields: object, message: string): void
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
}
