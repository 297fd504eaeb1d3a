export { readCertificate } from './certificate.js'
export { listenError, listenTargets, originHost } from './listen-address.js'
export {
  type AudienceEndpoint,
  boundsOf,
  expectation,
  optionSpecs,
  type PgWebsocketsOptions,
  type PluginOnly,
  type ResolvedOptions,
  resolveOptions,
  variableOf
} from './options.js'
export { isAllowedOrigin } from './origins.js'
export { readTrustProxy } from './trust-proxy.js'
export { isServiceUrl, serviceUrlProblem, unknownVariables } from './variable-names.js'
