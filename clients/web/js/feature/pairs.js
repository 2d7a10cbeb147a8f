// How alike two features are, in each of the ways that the service knows.

import { call } from '../api.js'
import { el } from '../dom.js'
import { featureName, share, visible, whole } from '../format.js'
import { enumName } from './state.js'

const WAYS = [
  ['decoder', 'what they write', 'cosine'],
  ['encoder', 'what they read', 'cosine'],
  ['firing', 'where they fire', 'overlap'],
  ['records', 'where they fire most', 'overlap'],
]

/** A table: a row for each way, a column for each pair. `features` is a list of `{letter, id}`. */
export async function pairsTable(features, { signal } = {}) {
  const pairs = features.flatMap((one, place) => features.slice(place + 1).map((other) => [one, other]))
  const rows = await Promise.all(
    WAYS.map(async ([by, words, unit]) => {
      const cells = await Promise.all(pairs.map((pair) => cell(by, pair, signal)))
      return el(
        'tr',
        {},
        el('th', { scope: 'row' }, words, ' ', el('span', { class: 'unit' }, unit)),
        cells.map((shown) => el('td', {}, shown)),
      )
    }),
  )
  return el(
    'div',
    { class: 'wide', tabindex: '0', role: 'region', 'aria-label': 'Table of how alike they are' },
    el(
      'table',
      { class: 'pairs' },
      el(
        'thead',
        {},
        el(
          'tr',
          {},
          el('td', {}),
          pairs.map(([one, other]) => el('th', { scope: 'col' }, `${one.letter} and ${other.letter}`)),
        ),
      ),
      el('tbody', {}, rows),
    ),
  )
}

/** One way for one pair. What cannot be told says why, and leaves the others alone. */
async function cell(by, [one, other], signal) {
  let answer
  try {
    const filter = { include: { features: [other.id] } }
    answer = await call(
      'similar-features',
      { feature: one.id, by: enumName('SIMILARITY', by), filter, limit: 1 },
      { signal },
    )
  } catch (error) {
    if (error.name === 'AbortError') throw error
    return el('span', { class: 'quiet' }, visible(error.message))
  }
  const found = answer.similar.find(
    (similar) => featureName(similar.facts.feature) !== featureName(answer.facts.feature),
  )
  if (found) return [el('strong', { class: 'number' }, found.value.toFixed(3)), rests(found, one, other)]
  const reasons = answer.leftOut.map((left) => visible(left.reason))
  return el('span', { class: 'quiet' }, reasons.join('; ') || 'nothing in common')
}

function rests(found, one, other) {
  const parts = []
  if (found.lower !== undefined) parts.push(`${found.lower.toFixed(2)} to ${found.upper.toFixed(2)}`)
  if (found.positions !== undefined)
    parts.push(`of ${whole(found.positions)} ${found.contained === undefined ? 'records' : 'places'}`)
  if (found.contained !== undefined)
    parts.push(
      `${other.letter} fires on ${share(found.contained)} of ${one.letter}'s places, ` +
        `${one.letter} on ${share(found.contains)} of ${other.letter}'s`,
    )
  return parts.length > 0 && el('div', { class: 'quiet' }, parts.join('; '))
}
