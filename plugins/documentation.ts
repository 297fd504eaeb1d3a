import fastifyHelmet from '@fastify/helmet'
import fastifySwagger from '@fastify/swagger'
import fastifySwaggerUi from '@fastify/swagger-ui'
import type { FastifyInstance } from 'fastify'

/**
 * Makes the OpenAPI document from the routes' schemas and serves it at `/documentation/json`, with its page.
 * A host that has registered @fastify/swagger before us has our routes in its own document instead.
 */
export async function registerDocumentation(fastify: FastifyInstance): Promise<void> {
  if (fastify.hasDecorator('swagger')) return
  await fastify.register(fastifySwagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'fastify-pg-websockets',
        description: 'The control plane: health, nodes, channels, connections, publish.',
        version: '1'
      },
      components: { securitySchemes: { bearer: { type: 'http', scheme: 'bearer', bearerFormat: 'JWT' } } }
    }
  })
  await fastify.register(async (pages) => {
    await pages.register(fastifyHelmet, {
      contentSecurityPolicy: false,
      crossOriginOpenerPolicy: false,
      strictTransportSecurity: false
    })
    await pages.register(fastifySwaggerUi, {
      routePrefix: '/documentation',
      staticCSP: true,
      transformStaticCSP: (policy) =>
        policy
          // On a local network there is no TLS.
          .replace(/upgrade-insecure-requests;?/, '')
          // Its scripts set styles in place.
          .replace(/style-src [^;]*/, "style-src 'self' 'unsafe-inline'")
    })
  })
}
