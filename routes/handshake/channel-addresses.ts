import type { ResolvedOptions } from '../../lib/config/index.js'
import type { Gateway } from '../../lib/gateway.js'
import type { VerifyToken } from '../../plugins/jwt.js'

export interface ChannelRoutesOptions {
  gateway: Gateway
  verifyToken: VerifyToken
  options: Pick<ResolvedOptions, 'allowedOrigins' | 'tokenCookie' | 'maxChannelsPerConnection'>
  /** The paths of the plugin's HTTP routes, below the prefix. */
  paths: Iterable<string>
}

/** The addresses of channels, below the prefix. */
export const ADDRESSES = ['/', '/:token', '/:channel/:token', '/*']
