// Which features fire on a text, as a table: `node examples/search.js "My favorite color is red." [red]`.
//
// SAESERVE_TARGET names the server, SAESERVE_TOKEN its token; the second argument is a token to sort by.

import { Client, Match, SaeserveError } from 'saeserve'

const MARKS = { [Match.EXACT]: '✓', [Match.FOLDED]: '~', [Match.NONE]: '✗', [Match.UNKNOWN]: '·' }
const [text = 'My favorite color is red.', sort] = process.argv.slice(2)
const client = new Client(process.env.SAESERVE_TARGET, { token: process.env.SAESERVE_TOKEN, clientName: 'example' })

try {
  const found = await client.search(text, { sort, limit: 4 })
  for (const { facts, value, maxPosition, match } of found.results) {
    const density = facts.density === undefined ? '-' : `${(100 * facts.density).toPrecision(3)}%`
    const usual = facts.usualTokens.map(({ token }) => token.display).join(' ')
    const columns = [facts.name.padEnd(12), value.toFixed(3).padStart(8), MARKS[match], density.padStart(6)]
    console.log(...columns, JSON.stringify(found.tokens[maxPosition].display).padEnd(9), `usually on ${usual || '-'}`)
  }
  console.log(`${found.featuresConsidered} features of ${found.sourcesConsidered.length} sources considered`)
} catch (error) {
  if (!(error instanceof SaeserveError)) throw error
  console.error(`${error.status} ${error.reason}: ${error.message}`)
  process.exitCode = 1
} finally {
  client.close()
}
