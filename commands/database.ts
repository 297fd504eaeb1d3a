import { resolve } from 'node:path'
import { readUri } from '../lib/config/index.js'
import { findRunningEmbedded } from '../lib/embedded-postgres/index.js'
import { type ConnectionTarget, connect, parseConninfo, runSql } from '../lib/postgres/index.js'
import { completeRoles, migrate } from '../lib/schema/index.js'
import { readConfig } from '../plugins/env.js'
import { type Command, expectNone, UsageError } from './command.js'

export const sqlCommand: Command = {
  help: `Usage: fastify-pg-websockets sql "<statements>"

Runs SQL on the configured database, or on the embedded one while it runs, and prints the results.
`,
  async run([text, ...more]) {
    if (text === undefined) throw new UsageError('no SQL is given')
    expectNone(more)
    await runSql(await connect(await targets()), text)
  }
}

export const migrateCommand: Command = {
  help: `Usage: fastify-pg-websockets migrate

Installs the schema "pgws" (durable channels, pgws.publish) in the configured database, or upgrades it. The role must be
allowed to create schemas there; if it may not create roles, the command prints what a superuser must run.
`,
  async run(args) {
    expectNone(args)
    await installSchema()
  }
}

async function installSchema(): Promise<void> {
  const { listenChannel } = await readConfig(process.env, 'command')
  const client = await connect(await targets())
  try {
    const { from, to } = await migrate(client, listenChannel!)
    process.stdout.write(
      from === to ? `The schema is up to date (version ${to}).\n` : `Installed version ${to}.\n`
    )
    const missing = await completeRoles(client)
    if (missing.length > 0) process.stdout.write(rolesAdvice(missing))
  } finally {
    await client.end()
  }
}

function rolesAdvice(missing: readonly string[]): string {
  return `
This role may not create the roles of the schema "pgws", or grant them what they need. Run as a superuser in this database:

${missing.map((statement) => `  ${statement};\n`).join('')}
If only roles are missing, you can also create them and run this command again.
Then grant pgws_server to the server's role, and pgws_publisher to roles that call pgws.publish.
`
}

/** The connection string of the configured database (not through a pooler), or of the running embedded one. */
async function targets(): Promise<ConnectionTarget[]> {
  const { dbUri, listenerUri, embeddedFolder } = await readConfig(process.env, 'command')
  if (listenerUri !== undefined) return parseConninfo(readUri('listenerUri', listenerUri))
  if (dbUri !== undefined) return parseConninfo(readUri('dbUri', dbUri))
  const uri = findRunningEmbedded(resolve(embeddedFolder))
  if (uri === undefined) {
    throw new Error(
      'no embedded database is running: start the server first, or set PGWS_DB_URI to your database'
    )
  }
  return parseConninfo(uri)
}
