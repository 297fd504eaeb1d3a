/** A command of `fastify-pg-websockets`. */
export interface Command {
  /** What `--help` prints. */
  help: string
  /**
   * @param args the arguments after the command's name
   * @throws UsageError, or any other error, whose message is printed
   */
  run(args: string[]): Promise<void>
}

/** The arguments of a command are wrong. The exit code is 2 then, as with POSIX utilities. */
export class UsageError extends Error {}

/** @throws UsageError if there are arguments */
export function expectNone(args: readonly string[]): void {
  if (args.length > 0) throw new UsageError(`unexpected argument: ${args[0]}`)
}
