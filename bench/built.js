import { pathToFileURL } from 'node:url'

/** Imports a module of the build that is measured: this checkout's, or the one that compare.js names. */
export function built(name) {
  const folder = process.env.BENCH_DIST
  return import(folder === undefined ? `../dist/${name}` : pathToFileURL(`${folder}/${name}`).href)
}
