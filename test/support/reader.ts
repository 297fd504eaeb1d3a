/** Declarations of what the code fragments in the documentation do not declare themselves. */
export const READER = `
import type fastifyJwtPlugin from '@fastify/jwt'
import type { FastifyInstance } from 'fastify'
import type pgWebsocketsPlugin from 'fastify-pg-websockets'

declare global {
  const fastify: FastifyInstance
  const pgWebsockets: typeof pgWebsocketsPlugin
  const fastifyJwt: typeof fastifyJwtPlugin
  const dbUri: string
  const jwtSecret: string
  const token: string
  function show(message: unknown): void
  function reload(): void
  function addMember(member: object): void
  function removeMember(member: object): void
  function setMembers(members: object[]): void
}

declare module 'fastify' {
  interface FastifyRequest {
    session: { user?: { id: number; rooms: number[] } }
  }
  interface FastifyInstance {
    orders: FastifyInstance['pgws']
  }
}
`
