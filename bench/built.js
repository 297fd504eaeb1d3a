import { pathToFileURL } from 'node:url'

/** Imports a module of the measured build: that of this checkout, or the one that compare.js names. */
export function built(name) {
  const folder = process.env.BENCH_DIST
  return import(folder === undefined ? `../dist/${name}` : pathToFileURL(`${folder}/${name}`).href)
}
