import { randomUUID } from 'node:crypto'
import { nkeys } from '@nats-io/transport-node'

type KeyPair = ReturnType<typeof nkeys.createUser>

/** What a user may publish and subscribe to. */
export interface Permissions {
  pub?: { allow: string[] }
  sub?: { allow: string[] }
}

/**
 * An operator with an account, as `nsc` makes them (https://docs.nats.io/running-a-nats-service/configuration/securing_nats/jwt),
 * for servers that know their users by signed tokens.
 */
export class NatsOperator {
  readonly #operator = nkeys.createOperator()
  readonly #account = nkeys.createAccount()
  /** The same in each configuration, because a server that runs does not take another one. */
  readonly #token = jwt(this.#operator, this.#operator, { type: 'operator' })
  readonly #revoked: Record<string, number> = {}

  /** What a server's configuration needs. */
  get configuration(): string {
    const limits = {
      subs: -1,
      data: -1,
      payload: -1,
      imports: -1,
      exports: -1,
      wildcards: true,
      conn: -1,
      leaf: -1
    }
    const account = jwt(this.#operator, this.#account, {
      type: 'account',
      limits,
      revocations: this.#revoked
    })
    return `operator: ${this.#token}
resolver: MEMORY
resolver_preload: { ${this.#account.getPublicKey()}: ${account} }`
  }

  /** The text of a user's creds file. */
  creds(permissions: Permissions = {}, expires?: number): string {
    const user = nkeys.createUser()
    const token = jwt(
      this.#account,
      user,
      { type: 'user', subs: -1, data: -1, payload: -1, ...permissions },
      expires
    )
    return `-----BEGIN NATS USER JWT-----
${token}
------END NATS USER JWT------

-----BEGIN USER NKEY SEED-----
${Buffer.from(user.getSeed()).toString()}
------END USER NKEY SEED------
`
  }

  /** Revokes the users whose tokens are older than now: the next configuration says so. */
  revokeAll(): void {
    this.#revoked['*'] = Math.floor(Date.now() / 1000) + 1
  }
}

/** A token as nats-server reads it: https://github.com/nats-io/jwt, version 2. */
function jwt(issuer: KeyPair, subject: KeyPair, nats: object, exp?: number): string {
  const claims = {
    jti: randomUUID(),
    iat: Math.floor(Date.now() / 1000),
    iss: issuer.getPublicKey(),
    name: 'test',
    sub: subject.getPublicKey(),
    ...(exp !== undefined && { exp }),
    nats: { ...nats, version: 2 }
  }
  const parts = [{ typ: 'JWT', alg: 'ed25519-nkey' }, claims]
  const text = parts.map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.')
  return `${text}.${Buffer.from(issuer.sign(Buffer.from(text))).toString('base64url')}`
}
