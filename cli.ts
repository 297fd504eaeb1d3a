#!/usr/bin/env node
import { type Command, UsageError } from './commands/command.js'
import { unnamedMessageOf } from './lib/errors.js'
import { VERSION } from './lib/version.js'

const NAME = 'fastify-pg-websockets'

const USAGE = `Usage:
  ${NAME}               start the server, configured by PGWS_* variables and a file .env (docs/options.md)
  ${NAME} migrate       install or upgrade the schema "pgws" (durable channels) in its database
  ${NAME} sql "…"       run SQL on its database
  ${NAME} token …       print a token, signed with its secret
  ${NAME} doctor        check the configuration, the database and the keys, and say what to do
  ${NAME} --version     print the version

${NAME} <command> --help says more about a command.
`

/** Each command is loaded when it is called, because the other commands do not need its dependencies. */
const commands: Record<string, () => Promise<Command>> = {
  migrate: async () => (await import('./commands/database.js')).migrateCommand,
  sql: async () => (await import('./commands/database.js')).sqlCommand,
  token: async () => (await import('./commands/token.js')).tokenCommand,
  doctor: async () => (await import('./commands/doctor/index.js')).doctorCommand
}

/** The command `fastify-pg-websockets`. */
async function main([word, ...args]: string[]): Promise<void> {
  if (word === undefined) return (await import('./commands/serve.js')).serve()
  if (word === '--version' || word === '-v') return print(`${VERSION}\n`)
  const help = isHelp(word) || word === 'help'
  const name = help ? args[0] : word
  if (name === undefined) return print(USAGE)
  const load = Object.hasOwn(commands, name) ? commands[name] : undefined
  if (load === undefined) return refuse(`there is no command "${name}"`, USAGE)
  const command = await load()
  if (help || args.some(isHelp)) return print(command.help)
  try {
    await command.run(args)
  } catch (error) {
    if (!(error instanceof UsageError)) throw error
    refuse(error.message, command.help)
  }
}

const isHelp = (word: string) => word === '--help' || word === '-h'

function print(text: string): void {
  process.stdout.write(text)
}

function refuse(problem: string, help: string): void {
  process.stderr.write(`${problem}\n\n${help}`)
  process.exitCode = 2
}

main(process.argv.slice(2)).catch((error) => {
  process.stderr.write(`${unnamedMessageOf(error)}\n`)
  process.exitCode = 1
})
