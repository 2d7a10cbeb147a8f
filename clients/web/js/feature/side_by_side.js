// Variants of a text beside one another: where a feature fires most on each, what differs, and every token's value.

import { el } from '../dom.js'
import { spaced, value } from '../format.js'
import { shaded } from '../tokens.js'
import { align, changes } from './align.js'
import { peak } from './encode.js'

/** Tokens of a table that is open at first. */
const SHORT = 16

/** Tokens of a change that are all told. */
const LONG = 8

/** Activations that differ by less are the same: they move by about 1e-5 with what is computed beside them. */
const SAME = 5e-4

/**
 * What one feature does on each text. `texts` as `encode` answers; `column` is the feature's place in it. `most`, where
 * given, is the feature's largest activation in the index.
 */
export function sideBySide(texts, column, { most = null } = {}) {
  const pieces = texts.map((text) => text.tokens.map((token) => token.piece))
  const rows = align(pieces)
  const largest = Math.max(0, ...texts.flatMap((text) => text.columns[column]))
  const lines = texts.map((text, place) => {
    const differing = place === 0 ? new Set() : new Set(changes(rows, pieces, place).flatMap((change) => change.after))
    return el(
      'div',
      { class: 'variant-result', role: 'group', 'aria-label': `Variant ${place + 1}` },
      el('p', { class: 'variant-head' }, el('strong', {}, `Variant ${place + 1}`), ' ', maximum(text, column)),
      shaded(text.tokens, text.columns[column], { peak: largest, chosen: differing }),
      text.truncated && el('p', { class: 'quiet' }, `Cut to the limit of ${text.tokens.length} tokens.`),
    )
  })
  const scale =
    largest > 0
      ? `The darkest shade is ${value(largest)}, the largest here` +
        `${most ? `; in the index it is at most ${value(most)}` : ''}.` +
        `${texts.length > 1 ? ' Underlined: other than in variant 1.' : ''}`
      : null
  return [
    el('div', { class: 'side' }, lines),
    el(
      'div',
      { class: 'told-and-table' },
      el(
        'div',
        {},
        texts.length > 1 &&
          el(
            'ul',
            { class: 'differences' },
            texts.slice(1).map((_, place) => el('li', {}, difference(texts, pieces, rows, place + 1, column))),
          ),
        scale && el('p', { class: 'quiet' }, scale),
      ),
      table(texts, pieces, rows, column),
    ),
  ]
}

/** Where a feature fires most on a text, in words. */
export function maximum(text, column) {
  const top = peak(text.columns[column])
  if (top === null) return el('span', { class: 'quiet' }, 'does not fire')
  return el('span', {}, 'max ', el('span', { class: 'number' }, value(top.value)), ' on ', chip(text.tokens[top.place]))
}

/** The same as a sentence, for those who hear it. */
export function told(texts, column) {
  return texts
    .map((text, place) => {
      const top = peak(text.columns[column])
      const words = top === null ? 'does not fire' : `${value(top.value)} on ${spaced(text.tokens[top.place].display)}`
      return `Variant ${place + 1}: ${words}`
    })
    .join('. ')
}

export function chip(token) {
  return el('bdi', { class: 'chip' }, spaced(token.display ?? ''))
}

/** What a variant has other than the first, and what that does. */
function difference(texts, pieces, rows, place, column) {
  const [old, now] = [texts[0], texts[place]]
  const found = changes(rows, pieces, place)
  const name = `Variant ${place + 1}: `
  if (!found.length) return [name, 'the same tokens as variant 1.']
  const parts = found.slice(0, 3).map((change) => [replaced(old, now, change), worth(old, now, change, column)])
  const [was, is] = [peak(old.columns[column]), peak(now.columns[column])]
  // Where both maxima stand on what was changed, its values have told them already.
  const told =
    found.length === 1 && (!was || found[0].before.includes(was.place)) && (!is || found[0].after.includes(is.place))
  const most = elsewhere(old, now, rows, place, column, pieces)
  const stayed = most?.at === is?.place && most?.from === was?.place ? null : most // else the maxima have told it
  const more = found.length > 3 ? [`${found.length - 3} more places differ. `] : []
  return [
    name,
    parts,
    more,
    told ? null : risen(was, is),
    stayed && [
      ' Of the tokens that stayed, ',
      chip(now.tokens[stayed.at]),
      ` changes most: ${value(stayed.is)}, before ${value(stayed.was)}.`,
    ],
  ]
}

function replaced(old, now, change) {
  const [before, after] = [phrase(old, change.before), phrase(now, change.after)]
  if (!before) return [after, ' is added']
  if (!after) return [before, ' is left out']
  return [after, ' in place of ', before]
}

/** Some tokens in a row, of many the first and the last. */
function phrase(text, places) {
  if (!places.length) return null
  const written = (part) => part.map((place) => text.tokens[place].display ?? '').join('')
  const words =
    places.length > LONG ? `${written(places.slice(0, LONG - 3))} … ${written(places.slice(-2))}` : written(places)
  return el('bdi', { class: 'chip' }, spaced(words))
}

/** What a change is worth: the largest activation on what is new, and on what stood there before. */
function worth(old, now, change, column) {
  const top = (text, places) => Math.max(0, ...places.map((place) => text.columns[column][place]))
  const [before, after] = [top(old, change.before), top(now, change.after)]
  if (!change.before.length) return after ? `, with ${value(after)}. ` : ', and it does not fire there. '
  if (!change.after.length) return before ? `, which had ${value(before)}. ` : ', and it did not fire there. '
  if (!before && !after) return '; it fires on neither. '
  if (!after) return `; it does not fire there, before ${value(before)}. `
  if (!before) return `: ${value(after)}, where it did not fire before. `
  return value(before) === value(after)
    ? `: ${value(after)} as before. `
    : `: ${value(after)}, before ${value(before)}${byShare(before, after)}. `
}

function risen(before, after) {
  if (before === null && after === null) return 'It fires on neither.'
  if (before === null) return `The feature now fires: max ${value(after.value)}.`
  if (after === null) return `The feature no longer fires; it had ${value(before.value)}.`
  if (Math.abs(after.value - before.value) < SAME) return 'The maximum stays.'
  const way = after.value > before.value ? 'rises' : 'falls'
  const share = byShare(before.value, after.value)
  return `The maximum ${way} from ${value(before.value)} to ${value(after.value)}${share}.`
}

function byShare(before, after) {
  const change = (after / before - 1) * 100
  return ` (${change > 0 ? '+' : '−'}${Math.abs(change).toFixed(0)}%)`
}

/** Of the tokens that both have, the one whose activation changed most. */
function elsewhere(old, now, rows, place, column, pieces) {
  let most = null
  for (const places of rows) {
    const [before, after] = [places[0], places[place]]
    if (before === null || after === null || pieces[0][before] !== pieces[place][after]) continue
    const [was, is] = [old.columns[column][before], now.columns[column][after]]
    if (Math.abs(is - was) >= SAME && Math.abs(is - was) > Math.abs((most?.is ?? 0) - (most?.was ?? 0)))
      most = { was, is, at: after, from: before }
  }
  return most
}

function table(texts, pieces, rows, column) {
  const differs = (places) =>
    new Set(places.map((place, text) => (place === null ? null : pieces[text][place]))).size > 1
  const head = el(
    'tr',
    {},
    el('th', { scope: 'col' }, 'row'),
    texts.map((_, place) => [
      el('th', { scope: 'col' }, `Variant ${place + 1}`),
      el('th', { scope: 'col', class: 'number' }, 'activation'),
    ]),
  )
  const body = rows.map((places, row) =>
    el(
      'tr',
      { class: differs(places) ? 'differs' : null },
      el('th', { scope: 'row' }, row, differs(places) && el('abbr', { title: 'the variants differ here' }, ' ≠')),
      places.map((place, text) =>
        place === null
          ? [el('td', {}), el('td', {})]
          : [
              el('td', {}, chip(texts[text].tokens[place])),
              el('td', { class: 'number' }, fires(texts[text].columns[column][place])),
            ],
      ),
    ),
  )
  return el(
    'details',
    { class: 'values', open: texts.length > 1 && rows.length <= SHORT },
    el('summary', {}, 'Token by token'),
    el(
      'div',
      { class: 'wide', tabindex: '0', role: 'region', 'aria-label': 'Activations token by token' },
      el('table', {}, el('thead', {}, head), el('tbody', {}, body)),
    ),
  )
}

/** An activation, quiet where there is none. */
export function fires(activation) {
  return activation === 0 ? el('span', { class: 'quiet' }, '0.000') : value(activation)
}
