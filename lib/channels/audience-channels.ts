import { randomUUID } from 'node:crypto'
import { channelNameProblem } from '../channel-name.js'
import { errors } from '../errors.js'
import type { Message } from '../messages/index.js'

/** The maximum length of the name of an audience in pgws, in characters. */
const MAX_AUDIENCE = 36

/** The audience of clients that belong to no other; as in pgws. */
export const DEFAULT_AUDIENCE = 'default'

/**
 * Parses a notification `audience,{json object}`.
 * @returns the audience, and the text of the object; undefined for anything else
 */
export function readAudienceMessage(payload: string): { audience: string; object: string } | undefined {
  const comma = payload.indexOf(',{')
  if (comma === -1 || comma > MAX_AUDIENCE) return undefined
  const object = payload.slice(comma + 1)
  try {
    JSON.parse(object)
  } catch {
    return undefined
  }
  return { audience: payload.slice(0, comma), object }
}

/** The message that clients receive. It does not reveal the audience. Its id is the same for all clients. */
export function audienceMessage(databaseChannel: string, object: string): string {
  return `{"payload":${object},"channel":${JSON.stringify(databaseChannel)},"id":"${randomUUID()}"}`
}

/** The channel of an endpoint's audience in the hub. Its name begins with NUL, so that no client can name it. */
export function audienceChannel(endpoint: number, audience: string): string {
  return `\0audience ${endpoint} ${audience}`
}

/** Whether a channel of the hub is a channel that clients can name. */
export function isPublicChannel(channel: string): boolean {
  return !channel.startsWith('\0')
}

/**
 * Checks what the function `audiences` of an endpoint returned.
 * @throws NoAudience (403) for anything but a list of one or more strings that are valid channel names
 */
export function checkAudiences(audiences: unknown): readonly string[] {
  const isValid =
    Array.isArray(audiences) &&
    audiences.length > 0 &&
    // They become part of a channel name in the hub.
    audiences.every(
      (item): item is string => typeof item === 'string' && channelNameProblem(item) === undefined
    )
  if (!isValid) throw new errors.NoAudience()
  return [...new Set<string>(audiences)]
}

/**
 * The audiences of a token: its claim `audiences`.
 * @throws NoAudience (403)
 */
export function audiencesOf({ audiences }: { audiences?: unknown }, isPublic: boolean): readonly string[] {
  if (audiences === undefined && isPublic) return [DEFAULT_AUDIENCE]
  return checkAudiences(audiences)
}

export interface AudienceChannelsOptions {
  endpoints: readonly { channels: readonly string[] }[]
  deliver: (message: Message) => void
  /** Is called for each notification. */
  onNotification: () => void
  /** Is called for a notification that is not `audience,{…}`. */
  onMalformed: (databaseChannel: string) => void
}

/** Delivers the notifications of the endpoints' database channels to the audiences that they name. */
export class AudienceChannels {
  readonly #options: AudienceChannelsOptions

  constructor(options: AudienceChannelsOptions) {
    this.#options = options
  }

  /** The database channels to listen to. */
  get databaseChannels(): Set<string> {
    return new Set(this.#options.endpoints.flatMap(({ channels }) => channels))
  }

  /** Takes a notification on one of these channels. */
  receive(databaseChannel: string, payload: string): void {
    const { endpoints, deliver, onNotification, onMalformed } = this.#options
    onNotification()
    const read = readAudienceMessage(payload)
    if (read === undefined) {
      onMalformed(databaseChannel)
      return
    }
    const text = audienceMessage(databaseChannel, read.object)
    for (const [index, { channels }] of endpoints.entries()) {
      if (channels.includes(databaseChannel))
        deliver({ channel: audienceChannel(index, read.audience), text })
    }
  }
}
