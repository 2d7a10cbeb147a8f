// Several features on the same texts: shaded, each with its own scale, and every value in a table.

import { el } from '../dom.js'
import { featureLink, wideTable } from '../parts.js'
import { shaded } from '../tokens.js'
import { maximum, chip, fires } from './side_by_side.js'
import { peak } from './encode.js'

/**
 * `texts` as `encode` answers, `features` a list of `{letter, id, name}` in the order of its columns, `written` the
 * texts themselves.
 */
export function sameText(texts, features, written) {
  const largest = features.map((_, column) => Math.max(0, ...texts.flatMap((text) => text.columns[column])))
  return texts.map((text, place) => [
    texts.length > 1 && el('h3', {}, `Text ${place + 1}`),
    text.truncated && el('p', { class: 'quiet' }, `Cut to the limit of ${text.tokens.length} tokens.`),
    el(
      'div',
      { class: 'side' },
      features.map((feature, column) =>
        el(
          'div',
          { class: 'variant-result', role: 'group', 'aria-label': `Feature ${feature.letter} on text ${place + 1}` },
          el(
            'p',
            { class: 'variant-head' },
            el('strong', {}, feature.letter),
            ' ',
            featureLink({ feature: feature.id, name: feature.name }, { text: written }),
            ' ',
            maximum(text, column),
          ),
          shaded(text.tokens, text.columns[column], { peak: largest[column] }),
        ),
      ),
    ),
    features.length === 2 && el('p', {}, together(text, features)),
    table(text, features, place),
  ])
}

/** On how many tokens both fire, and each alone. */
function together({ columns: [a, b] }, [one, other]) {
  const count = (test) => a.filter((_, place) => test(a[place] > 0, b[place] > 0)).length
  return (
    `Both fire on ${count((x, y) => x && y)} of ${a.length} tokens, ` +
    `${one.letter} alone on ${count((x, y) => x && !y)}, ` +
    `${other.letter} alone on ${count((x, y) => !x && y)}.`
  )
}

function table(text, features, place) {
  const peaks = features.map((_, column) => peak(text.columns[column])?.place)
  return el(
    'details',
    { class: 'values', open: text.tokens.length <= 16 },
    el('summary', {}, 'Token by token'),
    wideTable(
      `Activations token by token, text ${place + 1}`,
      [['row'], ['token'], ...features.map((feature) => [`${feature.letter} ${feature.name}`, true])],
      text.tokens.map((token, row) =>
        el(
          'tr',
          {},
          el('th', { scope: 'row' }, row),
          el('td', {}, chip(token)),
          text.columns.map((values, column) =>
            el('td', { class: `number${peaks[column] === row ? ' most' : ''}` }, fires(values[row])),
          ),
        ),
      ),
    ),
  )
}
