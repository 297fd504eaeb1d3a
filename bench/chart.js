import { readFileSync, writeFileSync } from 'node:fs'

const WIDTH = 760
const LEFT = 90
const BAR = 22
const colours = { ours: '#0b6566', limit: '#9aa5a8' }

const file = (name) => new URL(name, import.meta.url)

/** Draws results.md as results.svg: a bar for each server in each case about throughput. */
export function drawChart() {
  const cases = readFileSync(file('results.md'), 'utf8')
    .split('\n## ')
    .slice(1)
    .map((section) => ({
      title: section.split('\n')[0],
      unit: /^\| server \| ([^|]*) \|/m.exec(section)[1],
      rows: [...section.matchAll(/^\| ([\w-]+) +\| ([\d,.]+) /gm)].map(([, server, rate]) => ({
        server,
        rate: Number(rate.replaceAll(',', ''))
      }))
    }))
    // Tables that do not compare servers have no such rows.
    .filter(({ unit, rows }) => unit.endsWith('/s') && rows.length > 0)

  let y = 10
  const parts = []
  for (const { title, unit, rows } of cases) {
    parts.push(`<text x="10" y="${y + 16}" font-weight="600">${title} (${unit})</text>`)
    y += 26
    const most = Math.max(...rows.map(({ rate }) => rate))
    for (const { server, rate } of rows) {
      const width = Math.max(2, Math.round((rate / most) * (WIDTH - LEFT - 120)))
      parts.push(
        `<text x="${LEFT - 8}" y="${y + 15}" text-anchor="end">${server}</text>`,
        `<rect x="${LEFT}" y="${y + 2}" width="${width}" height="${BAR - 5}" rx="2" fill="${colours[server] ?? '#c98a3d'}"/>`,
        `<text x="${LEFT + width + 6}" y="${y + 15}">${rate.toLocaleString('en')}</text>`
      )
      y += BAR
    }
    y += 14
  }
  writeFileSync(
    file('results.svg'),
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${y}" font-family="system-ui, sans-serif" font-size="12" fill="#1d2426">
<title>Throughput beside the limit of the machine, the usual loop and Socket.IO</title>
<rect width="${WIDTH}" height="${y}" rx="6" fill="#fffefb"/>
${parts.join('\n')}
</svg>
`
  )
}
