/**
 * The names of an object's own properties, with their type. Only for objects that have no other properties than those of
 * their type, because TypeScript cannot know that.
 */
export function keysOf<T extends object>(object: T): (keyof T & string)[] {
  return Object.keys(object) as (keyof T & string)[]
}
