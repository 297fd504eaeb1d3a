import type { Bridge } from '../../lib/bridge.js'
import type { ResolvedOptions } from '../../lib/config/index.js'
import type { VerifyToken } from '../../plugins/jwt.js'

export interface ChannelRoutesOptions {
  bridge: Bridge
  verifyToken: VerifyToken
  options: Pick<ResolvedOptions, 'allowedOrigins' | 'tokenCookie' | 'maxChannelsPerConnection'>
  /** The paths of our own HTTP routes, below the prefix. */
  paths: Iterable<string>
}

/** The addresses of channels, below the prefix. */
export const ADDRESSES = ['/', '/:token', '/:channel/:token', '/*']
