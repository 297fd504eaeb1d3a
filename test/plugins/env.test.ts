import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { registerEnv } from '../../plugins/env.js'

function read(t: Test, environment: NodeJS.ProcessEnv) {
  const fastify = Fastify() as FastifyInstance
  t.teardown(() => fastify.close())
  return registerEnv(fastify, environment)
}

t.test('row 34: the variables have the defaults of postgres-websockets', async (t) => {
  t.match(await read(t, { PGWS_DB_URI: 'postgresql://', PGWS_JWT_SECRET: 'secret' }), {
    dbUri: 'postgresql://',
    rootPath: undefined,
    host: '*4',
    port: 3000,
    listenChannel: 'postgres-websockets-listener',
    metaChannel: undefined,
    jwtSecret: 'secret',
    jwtSecretBase64: false,
    poolSize: 10,
    retries: 5,
    checkListenerInterval: 0,
    certificateFile: undefined,
    keyFile: undefined
  })
})

t.test(
  'an empty value is unset; booleans are true and false in any case; texts stay as they are',
  async (t) => {
    const config = await read(t, {
      PGWS_JWT_SECRET: ' kept ',
      PGWS_PORT: '',
      PGWS_JWT_SECRET_BASE64: 'TRUE',
      PGWS_DOCUMENTATION: 'False',
      PGWS_CHECK_LISTENER_INTERVAL: '500'
    })
    t.match(config, { port: 3000, jwtSecret: ' kept ', jwtSecretBase64: true, documentation: false })
    t.equal(config.checkListenerInterval, 500)
    for (const value of ['1', 'yes', 'on']) {
      await t.rejects(read(t, { PGWS_JWT_SECRET_BASE64: value }), {
        message: /PGWS_JWT_SECRET_BASE64 must be true or false/
      })
    }
    for (const value of ['1.5', '-1', '1e400', 'x']) {
      await t.rejects(read(t, { PGWS_CHECK_LISTENER_INTERVAL: value }), {
        message: /whole number from 0 to /
      })
    }
  }
)

t.test('a database without a secret is an error: there is no default secret', async (t) => {
  await t.rejects(read(t, { PGWS_DB_URI: 'postgresql://' }), {
    message: /PGWS_JWT_SECRET \(or PGWS_JWKS_URL\) is required/
  })
})
