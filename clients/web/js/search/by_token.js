// The features that fire most on each token of a text.

import { el } from '../dom.js'
import { featureName, spaced, value } from '../format.js'
import { density, featureLink, match, usual } from '../parts.js'

/** The table of a SearchResponse by token. `state`: what was asked. `choose(row)`: a token is to be seen alone. */
export function tokenTable(answer, state, { choose }) {
  return el(
    'table',
    { class: 'by-token', role: 'table', 'aria-label': 'Features that fire most, by token' },
    el(
      'thead',
      { role: 'rowgroup' },
      el(
        'tr',
        { role: 'row' },
        ['Token', 'Features that fire most on it'].map((words) =>
          el('th', { role: 'columnheader', scope: 'col' }, words),
        ),
      ),
    ),
    el(
      'tbody',
      { role: 'rowgroup' },
      answer.tokenResults.map((one) => row(one, answer, state, choose)),
    ),
  )
}

function row(one, answer, state, choose) {
  const token = spaced(answer.tokens[one.position].display ?? '') || '∅'
  const largest = Math.max(0, ...one.values)
  return el(
    'tr',
    { role: 'row', 'data-row': one.position },
    el(
      'th',
      { role: 'rowheader', scope: 'row', class: 'token-name' },
      el('span', { class: 'place', 'aria-hidden': 'true' }, one.position),
      el(
        'button',
        {
          type: 'button',
          class: 'chip',
          'aria-label': `only token ${one.position}: ${token}`,
          onclick: () => choose(one.position),
        },
        el('bdi', {}, token),
      ),
    ),
    el(
      'td',
      { role: 'cell' },
      one.features.length === 0
        ? el('span', { class: 'quiet' }, 'no feature fires')
        : el(
            'ol',
            { class: 'fired' },
            one.features.map((place, rank) =>
              fired(answer.features[place], one.values[rank], one.matches[rank], largest, state),
            ),
          ),
    ),
  )
}

function fired(facts, worth, matched, largest, state) {
  const number = el('span', { class: 'worth' }, value(worth))
  number.style.setProperty('--part', (largest > 0 ? worth / largest : 0).toFixed(3))
  return el(
    'li',
    { 'data-feature': featureName(facts.feature) },
    featureLink(facts, { text: state.text }),
    number,
    density(facts),
    match(matched),
    usual(facts, 4),
  )
}
