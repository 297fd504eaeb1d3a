export { Authorizer, type Mode } from './authorizer.js'
export { parseClaimPath, putAt } from './claim-path.js'
export { type Claims, type Token, type TokenRules, tokenReader } from './claims.js'
export { RemoteKeySet } from './jwks.js'
export { keysFor, parseKeys, type VerificationKey } from './keys.js'
export {
  become,
  type Caller,
  callsFunctions,
  checkFunctions,
  LEAVE_NOTHING,
  parseFunctionName,
  quoteFunctionName,
  type SqlFunctions
} from './owner-functions.js'
export {
  type Access,
  authorize,
  authorizeAdmin,
  authorizeWrite,
  permissionsIn,
  requireMode
} from './permissions.js'
export { RevocationEvents } from './revocation-events.js'
export {
  RevocationList,
  type RevocationRequest,
  type RevocationSummary
} from './revocation-list.js'
export { identityOf, Revocations, type TokenIdentity } from './revocations.js'
export { type SigningKey, signingKeyOf, signToken } from './sign-token.js'
