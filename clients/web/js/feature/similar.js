// The features most like one, in every layer: by what they write, by what they read, by where they fire.

import { address } from '../address.js'
import { call, callOnce } from '../api.js'
import { el, follow } from '../dom.js'
import { featureName, millis, share, visible, whole } from '../format.js'
import { density, featureLink, usual, wideTable } from '../parts.js'
import { among, KINDS, labelled, layersField, select } from './controls.js'
import { section } from './section.js'
import { enumName, PAGE } from './state.js'

const WAYS = [
  ['decoder', 'what they write', 'Cosine of the directions that they write to the residual stream.'],
  ['encoder', 'what they read', 'Cosine of the directions that they read.'],
  [
    'firing',
    'where they fire',
    'Overlap of the places of the index on which they fire, from a sample, with its interval of 95%. Shared: here, ' +
      'of the places of this feature those on which the other fires too; there, the other way round.',
  ],
  ['records', 'where they fire most', 'Overlap of the blocks in which they fire most.'],
]

/** `change(part)` shows another part of the state; `update(state)` shows what the state says. */
export function similarSection(feature, { change }) {
  const by = select(WAYS, (chosen) => change({ by: chosen, similar: PAGE }))
  const kind = select(KINDS, (chosen) => change({ kind: chosen, similar: PAGE }))
  const layers = layersField((chosen) => change({ layers: chosen, similar: PAGE }))
  const about = el('p', { class: 'quiet' })
  const controls = el(
    'form',
    { class: 'controls', 'aria-label': 'Which similar features', onsubmit: (event) => event.preventDefault() },
    labelled('Alike in', by),
    labelled('Among', kind),
    labelled('Layers', layers),
  )
  const part = section('Similar features', { className: 'similar', controls: [controls, about] })
  let asked = false

  function update(state) {
    by.value = state.by
    kind.value = state.kind
    follow(layers, state.layers)
    about.textContent = WAYS.find(([key]) => key === state.by)?.[2] ?? ''
    const first = !asked
    asked = true
    const key = JSON.stringify([state.by, state.kind, state.layers, state.similar])
    let found = 0
    return part.load(
      key,
      async (signal) => {
        const body = { feature, by: enumName('SIMILARITY', state.by), filter: among(state), limit: state.similar }
        const [answer, info] = await Promise.all([
          call('similar-features', body, { signal }),
          callOnce('get-server-info'),
        ])
        found = answer.similar.length
        return drawn(answer, state, info.limits.maxLimit, change)
      },
      { words: 'Comparing …', say: first ? null : () => `${found} similar features` },
    )
  }

  return { ...part, update }
}

/** `most`: features that one call takes. */
function drawn(answer, state, most, change) {
  const overlaps = answer.space === ''
  const asked = featureName(answer.facts.feature)
  const head = [
    'feature',
    'usually on',
    overlaps ? 'overlap' : 'cosine',
    ...(state.by === 'firing' ? ['shared'] : []),
    'density',
  ]
  const beside = (one) =>
    el(
      'a',
      {
        class: 'small-link',
        href: address('compare', '', { a: asked, b: featureName(one.facts.feature) }),
        'aria-label': `side by side with ${one.facts.name}`,
      },
      'side by side',
    )
  const rows = answer.similar.map((one) =>
    el(
      'tr',
      {},
      el('th', { scope: 'row' }, featureLink(one.facts), el('br'), beside(one)),
      el('td', {}, usual(one.facts, 4)),
      el('td', { class: 'number' }, one.value.toFixed(3), overlaps && rests(one)),
      state.by === 'firing' &&
        el('td', { class: 'number' }, `${share(one.contained)} here`, el('br'), `${share(one.contains)} there`),
      el('td', { class: 'number' }, density(one.facts)),
    ),
  )
  const table = wideTable(
    'Table of similar features',
    head.map((words, place) => [words, place > 1]),
    rows,
  )
  return [
    rows.length ? table : el('p', {}, 'No feature has anything in common with it.'),
    answer.similar.length === state.similar &&
      state.similar < most &&
      el(
        'div',
        { class: 'actions' },
        el(
          'button',
          {
            type: 'button',
            onclick: () => change({ similar: Math.min(most, state.similar + PAGE) }, { replace: true }),
          },
          'More similar features',
        ),
      ),
    answer.leftOut.length > 0 &&
      el(
        'ul',
        { class: 'quiet left-out', 'aria-label': 'Not compared' },
        answer.leftOut.map((one) => el('li', {}, `Not compared: ${one.sources.join(', ')}: ${visible(one.reason)}`)),
      ),
    el(
      'p',
      { class: 'quiet' },
      `${whole(answer.featuresCompared)} features compared`,
      answer.space && ` in the ${answer.space}`,
      `, ${millis(answer.callInfo.totalMicros)}`,
    ),
  ]
}

function rests(one) {
  const interval = one.lower === undefined ? '' : `${one.lower.toFixed(2)}–${one.upper.toFixed(2)}`
  return el('div', { class: 'quiet' }, interval, interval && el('br'), `of ${whole(one.positions ?? 0)}`)
}
