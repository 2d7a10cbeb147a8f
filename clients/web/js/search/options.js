// What narrows and orders a search: every control changes the address at once.

import { el, fill } from '../dom.js'
import { visible } from '../format.js'
import { kindOf, limitOf } from './state.js'

/**
 * The controls: `{root, sync(state), refuse(field, words)}`. `served`: `{sources, info}`. `change(part)` is called with
 * the part of the state that changed; null in it is the default.
 */
export function options(served, change) {
  const { sources, info } = served
  const refusals = {}
  const layersBox = el('div', { class: 'pills' })
  const layerMenu = el('fieldset', { class: 'field layers' }, el('legend', {}, 'Layers'), layersBox, refusal('layers'))
  const setsBox = el('div', { class: 'pills' })
  const setMenu = el('fieldset', { class: 'field' }, el('legend', {}, 'Sets of latents'), setsBox, refusal('set'))
  const kind = choice(
    'kind',
    'Features',
    { latent: 'latents', neuron: 'neurons', both: 'both' },
    (value) => change({ kind: value }),
    absentKinds(sources),
  )
  const by = choice('by', 'Rank', { text: 'whole text', token: 'by token' }, (value) =>
    change({ by: value, limit: null }),
  )
  const ranking = el(
    'select',
    { id: 'ranking', onchange: () => change({ ranking: ranking.value }) },
    el('option', { value: 'raw' }, 'activation'),
    el('option', { value: 'relative', disabled: !hasMaxima(info) }, 'share of its maximum'),
    el('option', { value: 'surprisal', disabled: !info.index }, 'surprisal, in bits'),
  )
  const limit = number('limit', { min: 1, max: info.limits.maxLimit, step: 1 }, (value) => change({ limit: value }))
  const min = number('min', { min: 0, max: 100, step: 'any', placeholder: '0' }, (value) =>
    change({ min: shareOf(value) }),
  )
  const max = number('max', { min: 0, max: 100, step: 'any', placeholder: '100' }, (value) =>
    change({ max: shareOf(value) }),
  )
  const fires = number('fires', { min: 0, step: 1, placeholder: '10' }, (value) => change({ fires: value }))
  const not = el('div', { class: 'pills' })
  const leftOut = el(
    'div',
    { class: 'field', hidden: true },
    el('span', { class: 'label', id: 'left-out' }, 'Left out'),
    not,
    refusal('not'),
  )
  const count = el('span', { class: 'count' })
  const more = el(
    'details',
    { class: 'more' },
    el('summary', {}, 'More filters ', count),
    el(
      'div',
      { class: 'choices' },
      field('Density, % of tokens', [labelled('at least', min), labelled('at most', max)], 'density'),
      setMenu,
      field('Rare features', [el('label', { for: 'fires' }, 'must fire on '), fires, ' tokens of the index'], 'fires'),
    ),
  )
  const why = el(
    'p',
    { class: 'hint' },
    !info.index &&
      'This server has no index of top activations, so surprisal' +
        (hasMaxima(info) ? '' : ' and shares of a maximum') +
        ' cannot be told, nor what features usually fire on.',
  )
  const root = el(
    'div',
    { class: 'options' },
    el(
      'div',
      { class: 'choices' },
      kind.root,
      by.root,
      el(
        'div',
        { class: 'field' },
        el('label', { for: 'ranking' }, 'Compared by'),
        el('div', {}, ranking),
        refusal('ranking'),
      ),
      el('div', { class: 'field' }, el('label', { for: 'limit' }, 'How many'), el('div', {}, limit), refusal('limit')),
      layerMenu,
    ),
    more,
    leftOut,
    why,
  )

  function refusal(name) {
    return (refusals[name] = el('p', { class: 'refused', role: 'alert' }))
  }

  function field(title, parts, name) {
    return el(
      'fieldset',
      { class: 'field' },
      el('legend', {}, title),
      el('div', { class: 'inline' }, parts),
      refusal(name),
    )
  }

  function sync(state) {
    const shown = kindOf(state, sources)
    kind.sync(shown)
    by.sync(state.by)
    ranking.value = state.ranking
    put(limit, limitOf(state))
    put(min, percent(state.min))
    put(max, percent(state.max))
    put(fires, state.fires)
    fires.disabled = state.ranking === 'raw'
    const ofKind = sources.filter((one) => shown === 'both' || one.kind === `FEATURE_KIND_${shown.toUpperCase()}`)
    drawLayers(layersBox, [...new Set(ofKind.map((one) => one.layer))], state.layers, (layers) => change({ layers }))
    const sets =
      shown === 'neuron'
        ? []
        : [...new Set(ofKind.filter((one) => one.kind === 'FEATURE_KIND_LATENT').map((one) => one.set))]
    setMenu.hidden = sets.length < 2 && state.set.length === 0
    drawSets(setsBox, [...new Set([...sets, ...state.set])], state.set, (set) => change({ set }))
    leftOut.hidden = state.not.length === 0
    fill(
      not,
      state.not.map((name) =>
        el(
          'button',
          {
            class: 'pill',
            type: 'button',
            'aria-label': `take ${visible(name)} in again`,
            onclick: () => change({ not: state.not.filter((one) => one !== name) }),
          },
          visible(name.toUpperCase()),
          ' ✕',
        ),
      ),
    )
    const used = [state.min, state.max, state.fires].filter((value) => value !== null).length + (state.set.length > 0)
    fill(count, used > 0 && `(${used})`)
    for (const one of Object.values(refusals)) fill(one)
  }

  return {
    root,
    sync,
    refuse(name, words) {
      fill(refusals[name], words)
      if (more.contains(refusals[name])) more.open = true
    },
  }
}

/** Whether a largest activation is known of features. */
export function hasMaxima(info) {
  return Boolean(info.index) || (info.imports ?? []).some((one) => Number(one.records) > 0)
}

function absentKinds(sources) {
  const has = (kind) => sources.some((one) => one.kind === `FEATURE_KIND_${kind}`)
  return new Set([...(has('LATENT') ? [] : ['latent', 'both']), ...(has('NEURON') ? [] : ['neuron', 'both'])])
}

/** One of a few: radio buttons that look like one control. */
export function choice(name, title, words, changed, absent = new Set()) {
  const inputs = Object.keys(words).map((value) =>
    el('input', {
      type: 'radio',
      name,
      value,
      id: `${name}-${value}`,
      disabled: absent.has(value),
      onchange: () => changed(value),
    }),
  )
  const root = el(
    'fieldset',
    { class: 'field' },
    el('legend', {}, title),
    el(
      'div',
      { class: 'segments' },
      inputs.map((input) => el('label', { class: 'segment' }, input, el('span', {}, words[input.value]))),
    ),
  )
  return {
    root,
    sync: (value) =>
      inputs.forEach((input) => {
        input.checked = input.value === value
      }),
  }
}

/** A number that is told when it was changed: null where the field is empty. */
export function number(id, attributes, changed) {
  return el('input', {
    id,
    type: 'number',
    inputmode: 'decimal',
    ...attributes,
    onchange: (event) => {
      if (event.target.validity.valid) changed(event.target.value === '' ? null : Number(event.target.value))
      else event.target.reportValidity()
    },
  })
}

// A field in which somebody types is left alone, unless it says something else.
function put(input, value) {
  const written = value === null ? '' : String(value)
  if (input.value !== written) input.value = written
}

function labelled(words, input) {
  return el('label', { class: 'small' }, words, ' ', input)
}

function drawLayers(box, layers, chosen, choose) {
  const all = [...new Set([...layers, ...chosen])].sort((a, b) => a - b)
  const first = Math.min(...all)
  const butFirst = all.filter((layer) => layer !== first)
  const isButFirst = chosen.length > 0 && chosen.join() === butFirst.join()
  redraw(box, [
    pill('button', 'all', chosen.length === 0, () => choose([])),
    butFirst.length > 1 && pill('button', `all but ${first}`, isButFirst, () => choose(isButFirst ? [] : butFirst)),
    all.map((layer, place) =>
      tick('layer', layer, chosen.includes(layer), (on, event) => {
        const last = all.indexOf(Number(box.dataset.last ?? layer))
        // Shift takes everything from the one before.
        const these =
          event.shiftKey && last >= 0 ? all.slice(Math.min(place, last), Math.max(place, last) + 1) : [layer]
        box.dataset.last = layer
        const next = new Set(chosen)
        for (const one of these)
          if (on) next.add(one)
          else next.delete(one)
        choose(next.size === all.length ? [] : [...next].sort((a, b) => a - b))
      }),
    ),
  ])
}

function drawSets(box, sets, chosen, choose) {
  redraw(
    box,
    sets.map((set) =>
      tick('set', set, chosen.includes(set), (on) =>
        choose(on ? [...chosen, set] : chosen.filter((one) => one !== set)),
      ),
    ),
  )
}

// Pills are made anew for each state: whoever stood on one stands on it still.
function redraw(box, children) {
  const held = box.contains(document.activeElement) ? document.activeElement.id : null
  fill(box, children)
  if (held) document.getElementById(held)?.focus()
}

function pill(tag, words, pressed, onclick) {
  return el(
    tag,
    {
      class: 'pill',
      type: 'button',
      id: `layers-${words.replaceAll(' ', '-')}`,
      'aria-pressed': String(pressed),
      onclick,
    },
    words,
  )
}

function tick(name, value, checked, changed) {
  const input = el('input', {
    type: 'checkbox',
    id: `${name}-${value}`,
    checked,
    onclick: (event) => changed(event.target.checked, event),
  })
  return el('label', { class: 'pill' }, input, el('span', {}, visible(String(value))))
}

const percent = (share) => (share === null ? null : Number((share * 100).toPrecision(12)))
const shareOf = (value) => (value === null ? null : Number((value / 100).toPrecision(12)))
