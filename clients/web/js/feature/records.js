// The texts on which a feature fires: which of them, one for which others, page after page.

import { call, callOnce } from '../api.js'
import { announce, el, fill, follow } from '../dom.js'
import { problem } from '../parts.js'
import { labelled, select } from './controls.js'
import { record } from './record.js'
import { section } from './section.js'
import { enumName, PAGE } from './state.js'

const GROUPS = [
  ['top', 'strongest', 'Where it fires most.'],
  [
    'quantiles',
    'from strong to weak',
    'A sample of each power of two of the activation, the strongest first; each stands for a number of blocks.',
  ],
  [
    'random',
    'at random',
    'The same sample, drawn by what each stands for: first any block in which it fires, all with the same chance.',
  ],
  ['near-misses', 'near misses', 'Usual tokens on which it does not fire.'],
]
const LEVELS = [
  ['none', 'every record', false],
  ['token', 'peak token', false],
  ['folded-token', 'token, whatever its case', false],
  ['phrase', 'phrase', true],
  ['sentence', 'sentence', true],
  ['text', 'text', true],
  ['semantic', 'what else is active', true],
]
const ORIGINS = [
  ['', 'the index, else imported'],
  ['index', 'the index'],
  ['import', 'imported'],
]

/** Largest page of the contract. */
const MOST = 100

/**
 * `change(part)` shows another part of the state; `onCopy(text)` puts a text into the test box. `update(state)` shows
 * what the state says.
 */
export function recordsSection(feature, { change, onCopy }) {
  const group = select(GROUPS, (chosen) =>
    change({ group: chosen, records: PAGE, ...(chosen === 'top' ? {} : { diversity: 'none', threshold: '' }) }),
  )
  const diversity = select(LEVELS, (chosen) =>
    change({ diversity: chosen, records: PAGE, ...(takesThreshold(chosen) ? {} : { threshold: '' }) }),
  )
  const origin = select(ORIGINS, (chosen) => change({ origin: chosen, records: PAGE }))
  const threshold = el('input', {
    type: 'number',
    min: '0.05',
    max: '1',
    step: '0.05',
    placeholder: '0.5',
    inputmode: 'decimal',
    onchange: () => threshold.reportValidity() && change({ threshold: threshold.value, records: PAGE }),
  })
  const thresholdLabel = labelled('Alike from', threshold)
  const originLabel = labelled('From', origin)
  originLabel.hidden = true
  callOnce('get-server-info').then(
    (info) => {
      originLabel.hidden = !info.imports.length
    },
    () => {},
  )
  const about = el('p', { class: 'quiet' })
  const controls = el(
    'form',
    { class: 'controls', 'aria-label': 'Which texts', onsubmit: (event) => event.preventDefault() },
    labelled('Show', group),
    labelled('One for each', diversity),
    thresholdLabel,
    originLabel,
  )
  const part = section('Texts', { className: 'records', controls: [controls, about] })
  let held = null // the records that are shown
  let asked = false

  async function update(state) {
    group.value = state.group
    diversity.value = state.diversity
    follow(threshold, state.threshold)
    origin.value = state.origin
    if (state.origin) originLabel.hidden = false
    diversity.disabled = state.group !== 'top'
    thresholdLabel.hidden = !takesThreshold(state.diversity)
    fill(about, GROUPS.find(([key]) => key === state.group)?.[2])
    const query = JSON.stringify([state.group, state.diversity, state.threshold, state.origin])
    if (held?.query === query) {
      if (held.asked === state.records) return
      if (state.records > held.count && held.token) return append(state)
    }
    const first = !asked
    asked = true
    return part.load(JSON.stringify([query, state.records]), (signal) => begin(query, state, signal), {
      words: 'Fetching texts …',
      say: first ? null : () => `${held.count} texts`,
    })
  }

  async function begin(query, state, signal) {
    held = null
    const mine = {
      query,
      asked: state.records,
      count: 0,
      token: '',
      statistics: null,
      list: el('ol', { class: 'record-list' }),
    }
    do await fetchInto(mine, state, signal)
    while (mine.token && mine.count < state.records)
    held = mine
    return mine.count ? [mine.list, foot(mine, state)] : none(mine.statistics, state)
  }

  async function fetchInto(mine, state, signal) {
    const body = {
      feature,
      pageSize: Math.min(MOST, state.records - mine.count),
      pageToken: mine.token,
      group: enumName('RECORD_GROUP', state.group),
    }
    if (state.diversity !== 'none') body.diversity = enumName('DIVERSITY', state.diversity)
    if (state.threshold !== '') body.threshold = Number(state.threshold)
    if (state.origin !== '') body.origin = enumName('RECORD_ORIGIN', state.origin)
    const answer = await call('top-activations', body, { signal })
    mine.statistics = answer.statistics
    const source = { id: answer.facts.feature.source, name: answer.facts.name.replace(/:\d+$/, '') }
    for (const one of answer.records) {
      mine.count += 1
      const scale = Math.max(answer.statistics?.maxActivation ?? 0, one.maxActivation)
      mine.list.append(
        record(one, { rank: mine.count, scale, source, group: state.group, diversity: state.diversity, onCopy }),
      )
    }
    mine.token = answer.nextPageToken
  }

  function foot(mine, state) {
    const button = el(
      'button',
      {
        type: 'button',
        // Not of those that others are about to take the place of.
        onclick: () => held === mine && change({ records: mine.count + PAGE }, { replace: true }),
      },
      'More texts',
    )
    return el('div', { class: 'actions more' }, mine.token ? button : el('span', { class: 'quiet' }, ended(state)))
  }

  function ended(state) {
    return state.group === 'top' && state.diversity === 'none' ? 'These are all that were kept.' : 'There are no more.'
  }

  async function append(state) {
    const mine = held
    const before = mine.count
    mine.asked = state.records
    const place = part.body.querySelector('.more')
    place.querySelector('button').disabled = true
    await part.extend(
      async (signal) => {
        do await fetchInto(mine, state, signal)
        while (mine.token && mine.count < state.records)
        announce(`${mine.count - before} more texts`)
        const next = foot(mine, state)
        place.replaceWith(next)
        next.querySelector('button')?.focus({ preventScroll: true })
      },
      (error) => {
        held = null
        place.replaceWith(error.reason === 'STORE_CHANGED' ? storeChanged(state) : problem(error, () => update(state)))
      },
    )
  }

  function storeChanged(state) {
    return el(
      'div',
      { class: 'problem', role: 'alert' },
      el(
        'p',
        {},
        'The server has other records now than when these texts were fetched: the next page would not go on from them.',
      ),
      el('button', { type: 'button', onclick: () => update(state) }, 'Fetch the texts anew'),
    )
  }

  return { ...part, update }
}

function none(statistics, { group }) {
  if (group === 'near-misses') return el('p', {}, 'None was found: wherever a usual token was looked at, it fires.')
  const never = statistics && Number(statistics.tokens) > 0 && Number(statistics.fires) === 0
  return el('p', {}, never ? 'It never fired over the index.' : 'There are no records.')
}

function takesThreshold(level) {
  return LEVELS.find(([key]) => key === level)?.[2] ?? false
}
