import fastifyHelmet from '@fastify/helmet'
import fastifySwagger, { type SwaggerTransform } from '@fastify/swagger'
import fastifySwaggerUi from '@fastify/swagger-ui'
import type { FastifyInstance } from 'fastify'

/** The bearer token of the control plane, as our routes' schemas name it. */
const BEARER = { type: 'http', scheme: 'bearer', bearerFormat: 'JWT' } as const

/**
 * Says in a host's document what `bearer` is, where the host has not: @fastify/swagger fails on a scheme that is not
 * defined. It is called with one of our routes, before it comes to the others.
 */
export function defineBearer({ schema, url, ...document }: Parameters<SwaggerTransform>[0]) {
  if ('openapiObject' in document) {
    const { components } = document.openapiObject
    if (components) components.securitySchemes = { bearer: BEARER, ...components.securitySchemes }
  } else {
    const { swaggerObject } = document
    const bearer = { type: 'apiKey', name: 'authorization', in: 'header' } as const
    swaggerObject.securityDefinitions = { bearer, ...swaggerObject.securityDefinitions }
  }
  return { schema, url }
}

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
      components: { securitySchemes: { bearer: BEARER } }
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
