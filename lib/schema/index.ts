export { appliedExpression, migrate, SCHEMA_VERSION, THERE } from './migrate.js'
export { checkServerRole, completeRoles, excessOf, type Permission, permissionOf } from './roles.js'
