import fastifySwagger from '@fastify/swagger'
import type { FastifyInstance } from 'fastify'
import t from 'tap'
import { build, withPostgres } from '../support/helper.js'

const { database } = await withPostgres(t)
const dbUri = await database()

interface Document {
  paths: Record<string, Record<string, { security?: object[] }>>
  components?: { securitySchemes: Record<string, object> }
  securityDefinitions?: Record<string, object>
}

const hosts: Record<string, { options: object; schemes: object }> = {
  'an OpenAPI document': {
    options: { openapi: { info: { title: 'host', version: '1' } } },
    schemes: { bearer: { type: 'http', scheme: 'bearer' } }
  },
  'an OpenAPI document with schemes of its own': {
    options: {
      openapi: {
        components: {
          securitySchemes: {
            session: { type: 'apiKey', in: 'cookie', name: 'session' },
            bearer: { type: 'apiKey', in: 'header', name: 'x-host' }
          }
        },
        security: [{ session: [] }]
      }
    },
    schemes: { session: { in: 'cookie' }, bearer: { name: 'x-host' } }
  },
  'a Swagger 2 document': {
    options: { swagger: { info: { title: 'host', version: '1' } } },
    schemes: { bearer: { type: 'apiKey', name: 'authorization' } }
  },
  'a document whose addresses are changed': {
    options: {
      openapi: {},
      transform: ({ schema, url }: { schema: object; url: string }) => ({ schema, url: `/v1${url}` })
    },
    schemes: { bearer: { type: 'http' } }
  }
}

for (const [name, { options, schemes }] of Object.entries(hosts)) {
  t.test(`adds the routes to ${name} of the host`, async (t) => {
    const before = async (fastify: FastifyInstance) => {
      await fastify.register(fastifySwagger, options)
      fastify.get('/of-the-host', async () => 'hello')
    }
    for (const prefix of ['', '/realtime']) {
      const { fastify } = await build(t, { dbUri, prefix }, { before })
      const swagger = fastify.swagger as unknown as () => Document
      // Twice, because the first result is cached.
      t.same(swagger(), swagger())
      const { paths, components, securityDefinitions } = swagger()
      const from = name.endsWith('changed') ? '/v1' : ''
      t.ok(paths[`${from}/of-the-host`])
      t.same(paths[`${from}${prefix}/publish`]!.post!.security, [{ bearer: [] }])
      t.match(components?.securitySchemes ?? securityDefinitions, schemes)
      t.notOk(Object.keys(paths).some((path) => path.includes('*')))
    }
  })
}
