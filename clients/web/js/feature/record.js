// One record: a stretch of text on which a feature fires, and what it stands for.

import { el } from '../dom.js'
import { value, visible, whole } from '../format.js'
import { featureLink } from '../parts.js'
import { shaded } from '../tokens.js'
import { written } from './encode.js'
import { chip } from './side_by_side.js'

/**
 * `scale` is the value of the darkest shade, `source` that of the feature; `group` and `diversity` are those asked for.
 * `onCopy(text)` is called with the record's text.
 */
export function record(one, { rank, scale, source, group, diversity, onCopy }) {
  const missed = group === 'near-misses'
  const peak = one.tokens[one.maxPosition]
  const head = missed
    ? [
        'does not fire on ',
        chip(peak),
        el(
          'span',
          { class: 'quiet' },
          Number(one.maxActivation) > 0
            ? ` at most ${value(one.maxActivation)} elsewhere in the block`
            : ' nor elsewhere in the block',
        ),
      ]
    : [el('strong', { class: 'number' }, value(one.maxActivation)), ' on ', chip(peak)]
  return el(
    'li',
    { class: 'record' },
    el(
      'div',
      { class: 'record-head' },
      el('p', {}, el('span', { class: 'quiet rank' }, `${rank} `), head, stands(one, group, diversity)),
      el(
        'button',
        {
          type: 'button',
          class: 'small',
          'aria-label': `Copy into the test box: record ${rank}`,
          onclick: () => onCopy(written(one.tokens)),
        },
        'Copy into the test box',
      ),
    ),
    shaded(one.tokens, one.activations, { peak: scale, marked: one.maxPosition }),
    one.examples?.length > 0 &&
      el(
        'ul',
        { class: 'examples', 'aria-label': 'Some of the others' },
        one.examples.map((example) =>
          el(
            'li',
            {},
            el('span', { class: 'number' }, value(example.activation)),
            ' ',
            el('bdi', {}, `…${visible(example.text)}…`),
          ),
        ),
      ),
    where(one, source),
  )
}

/** For how many blocks a record stands, and between which activations. */
function stands(one, group, diversity) {
  const counted = diversity !== 'none' && group === 'top'
  if (!counted && group !== 'quantiles' && group !== 'random') return null
  const count = Number(one.standsFor.toFixed(1))
  const words = [`stands for ${one.isLowerBound ? 'at least ' : ''}${whole(count)} ${count === 1 ? 'block' : 'blocks'}`]
  if (count !== 1) words.push(`${value(one.leastActivation)} to ${value(one.mostActivation)}`)
  return el('span', { class: 'quiet stands' }, ` · ${words.join(', ')}`)
}

/** Where it is from, and what else of the same source fires on its peak token. */
function where(one, source) {
  const from =
    one.origin === 'RECORD_ORIGIN_IMPORT'
      ? ['imported, ', el('bdi', {}, visible(one.importName))]
      : `text ${whole(one.textIndex)}, from token ${whole(one.textPosition)}`
  const active = one.activeFeatures ?? []
  return el(
    'details',
    { class: 'where quiet' },
    el('summary', {}, from),
    active.length
      ? el(
          'p',
          {},
          'Fire most on the peak token, of the same source: ',
          active.map((index) => [
            featureLink({ feature: { source: source.id, index }, name: `${source.name}:${index}` }),
            ' ',
          ]),
        )
      : el('p', {}, 'What else fires there is not known.'),
  )
}
