// The features that fire most on a text, a row for each.

import { el } from '../dom.js'
import { featureName, spaced, value, visible, whole } from '../format.js'
import { density, explained, featureLink, match, usual } from '../parts.js'
import { shaded } from '../tokens.js'

/** Tokens on each side of the peak, where texts are not shown whole. */
const AROUND = 14

/** Whether texts are longer than what a row shows of them. */
export function isLong(tokens) {
  return tokens.length > 2 * AROUND + 1
}

/**
 * The table of a SearchResponse. `state`: what was asked. `pick(name, on)`: a feature is chosen to compare.
 * `leaveOut(name)`: it is to be left out.
 */
export function resultTable(answer, state, { pick, leaveOut }) {
  // Sorted, or compared with the index, the value is not the largest activation: both are shown.
  const both = answer.sortPositions.length > 0 || state.ranking !== 'raw'
  const bits = state.ranking === 'surprisal'
  const worth = { raw: 'Value', relative: 'Share of max', surprisal: 'Bits' }[state.ranking]
  const heads = [
    ['Compare', 'pick', true],
    ['Feature', 'name'],
    [worth, 'value'],
    bits && ['Index tokens', 'rare'],
    both && ['Maximum', 'maximum'],
    ['Density', 'share'],
    ['Where it fires on this text', 'text'],
    ['Usually fires on', 'usually'],
    ['Leave out', 'out', true],
  ].filter(Boolean)
  const largest = answer.results[0]?.value ?? 1
  // Roles are said, because a narrow page lays the rows out as blocks, which takes them away.
  return el(
    'table',
    {
      class: `results ${both ? 'both' : ''} ${bits ? 'bits' : ''}`,
      role: 'table',
      'aria-label': 'Features that fire most',
    },
    el(
      'thead',
      { role: 'rowgroup' },
      el(
        'tr',
        { role: 'row' },
        heads.map(([words, kind, hidden]) =>
          el(
            'th',
            { role: 'columnheader', scope: 'col', class: kind },
            hidden ? el('span', { class: 'unseen' }, words) : words,
          ),
        ),
      ),
    ),
    el(
      'tbody',
      { role: 'rowgroup' },
      answer.results.map((result) => row(result, answer, state, { both, bits, largest, pick, leaveOut })),
    ),
  )
}

function row(result, answer, state, { both, bits, largest, pick, leaveOut }) {
  const { facts } = result
  const name = featureName(facts.feature)
  const cell = (kind, ...children) => el('td', { role: 'cell', class: kind }, children)
  const worth = el('span', { class: 'worth' }, value(result.value))
  worth.style.setProperty('--part', Math.max(0, Math.min(1, result.value / largest)).toFixed(3))
  const words = explained(facts)
  return el(
    'tr',
    { role: 'row', 'data-feature': name },
    cell(
      'pick',
      el('input', {
        type: 'checkbox',
        'aria-label': `compare ${visible(facts.name)}`,
        checked: state.pick.includes(name),
        onchange: (event) => pick(name, event.target.checked),
      }),
    ),
    cell('name', featureLink(facts, { text: state.text })),
    cell('value', worth),
    bits && cell('rare', rare(result)),
    both && cell('maximum', el('span', { class: 'label' }, 'max '), value(result.maxActivation)),
    cell('share', density(facts)),
    cell('text', text(result, answer, state), words && el('p', { class: 'says' }, words)),
    cell('usually', el('div', { class: 'meets' }, match(result.match), usual(facts))),
    cell(
      'out',
      el(
        'button',
        {
          type: 'button',
          class: 'icon',
          'aria-label': `leave ${visible(facts.name)} out`,
          title: 'Leave it out of the search',
          onclick: () => leaveOut(name),
        },
        '✕',
      ),
    ),
  )
}

function text(result, answer, state) {
  // Sorted by one token, that token is what is looked at.
  const at = answer.sortPositions.length === 1 ? answer.sortPositions[0] : result.maxPosition
  const around = state.whole || !isLong(answer.tokens) ? null : { row: at, tokens: AROUND }
  const shown = shaded(answer.tokens, result.activations, {
    peak: result.maxActivation,
    around,
    marked: result.maxPosition,
  })
  const peak = answer.tokens[result.maxPosition]
  return [el('span', { class: 'unseen' }, `most on ${spaced(peak?.display ?? '')}: `), shown]
}

function rare(result) {
  if (result.beyondIndex) return el('span', { title: 'more active than anywhere in the index' }, 'beyond')
  const n = result.tokensAtLeast
  if (n === undefined) return '–'
  return el(
    'span',
    { title: `at least so active on about ${whole(Math.round(n))} tokens of the index` },
    `n ≥ ${n < 10 ? n.toFixed(1) : whole(Math.round(n))}`,
  )
}

/** What the marks mean. */
export function legend(answer) {
  const matches = [...answer.results.map((one) => one.match), ...answer.tokenResults.flatMap((one) => one.matches)]
  if (!matches.some((one) => one !== 'MATCH_UNKNOWN')) return null
  return el(
    'p',
    { class: 'hint' },
    'It fires most on ',
    match('MATCH_EXACT'),
    ' a token it usually fires on, ',
    match('MATCH_FOLDED'),
    ' one but for case or spaces, ',
    match('MATCH_NONE'),
    ' another.',
  )
}

/** What an answer is in words, for those who do not see it. */
export function inWords(answer, state) {
  if (state.by === 'token') return `${answer.tokenResults.length} tokens, ${answer.features.length} features.`
  const first = answer.results[0]
  if (!first) return 'No feature fires.'
  const sorted = answer.sortPositions.map((row) => spaced(answer.tokens[row].display ?? '')).join(', ')
  const how = sorted ? `, sorted by ${sorted}` : ''
  return `${answer.results.length} features${how}. First ${visible(first.facts.name)}, ${value(first.value)}.`
}
