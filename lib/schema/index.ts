export { appliedExpression, INSTALLED, migrate, SCHEMA_VERSION } from './migrate.js'
export { checkServerRole, completeRoles, excessOf, type Permission, permissionOf } from './roles.js'
