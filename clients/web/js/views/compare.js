// Two features or more side by side: on the same texts, in what is known of them, and in how alike they are.
//
// Accessible names that stay: fields "Feature A", "Feature B", …; text boxes "Text 1", …; buttons "Compare", "Swap A
// and B", "Add a feature", "Remove feature C", "Add a text", "Remove text 2"; headings "On the same text", "What is
// known", "How alike"; groups "Feature A on text 1", …; regions "Activations token by token, text 1", "Table of what
// is known", "Table of how alike they are".

import { address, go, read } from '../address.js'
import { call, callOnce } from '../api.js'
import { announce, el, fill } from '../dom.js'
import { featureId, featureName } from '../format.js'
import { featureLink, problem, usual } from '../parts.js'
import { encode } from '../feature/encode.js'
import { explanations, factLines } from '../feature/facts.js'
import { pairsTable } from '../feature/pairs.js'
import { sameText } from '../feature/same_text.js'
import { section } from '../feature/section.js'
import { variantsForm } from '../feature/variants_form.js'

/** Features that an address can name, `a` to `f`. */
const LETTERS = ['a', 'b', 'c', 'd', 'e', 'f']

export function title(name, params) {
  const names = LETTERS.map((letter) => params?.get(letter)).filter(Boolean)
  return names.length ? `Compare ${names.join(', ').toUpperCase()}` : 'Compare'
}

// The page stays while only its state changes, as a feature's does.
let page = null

export async function show({ params, main, signal }) {
  if (!page || !main.contains(page.element)) {
    page?.leave()
    page = build()
    fill(main, page.element)
  }
  const mine = page
  signal.addEventListener(
    'abort',
    () => {
      if (read().view !== 'compare') mine.leave()
    },
    { once: true },
  )
  await page.update(state(params))
}

function state(params) {
  return {
    names: LETTERS.map((letter) => trimmed(params.get(letter) ?? '')).filter(Boolean),
    texts: params.getAll('text').filter((text) => text !== ''),
  }
}

function addressOf({ names, texts }) {
  return address('compare', '', {
    ...Object.fromEntries(names.map((name, place) => [LETTERS[place], name])),
    text: texts,
  })
}

function build() {
  let limit = 64
  callOnce('get-server-info').then(
    (info) => {
      limit = info.limits.maxInputs
    },
    () => {},
  )
  const fields = el('div', { class: 'compared' })
  const swap = el('button', { type: 'button', onclick: () => swapped() }, 'Swap A and B')
  const add = el(
    'button',
    {
      type: 'button',
      onclick: () => {
        number([...typed(), ''])
        inputs().at(-1).focus()
      },
    },
    'Add a feature',
  )
  const form = variantsForm({
    onEncode: (texts) => {
      told = null
      go(addressOf({ names: typed().map(trimmed).filter(Boolean), texts }))
    },
    most: () => limit,
    action: 'Compare',
    none: true,
    noun: 'text',
    before: [fields, el('div', { class: 'actions' }, swap, add)],
  })
  const same = section('On the same text')
  const known = section('What is known')
  const alike = section('How alike')
  const sections = [same, known, alike]
  const refusal = el('div', {})
  const results = el('div', {}, same.element, el('div', { class: 'beside' }, known.element, alike.element))
  const element = el(
    'div',
    { class: 'compare-page' },
    el('h1', {}, 'Compare features'),
    el('div', { class: 'panel' }, form.element),
    refusal,
    results,
  )
  let first = true
  let told = null // by the address: the features' names

  const inputs = () => [...fields.querySelectorAll('input')]
  const typed = () => inputs().map((input) => input.value)

  function number(names) {
    fill(
      fields,
      names.map((name, place) => {
        const letter = LETTERS[place].toUpperCase()
        const input = el('input', {
          type: 'text',
          id: `feature-${letter}`,
          placeholder: 'source:index',
          autocomplete: 'off',
          spellcheck: 'false',
          required: place < 2,
        })
        input.value = name
        return el(
          'div',
          {},
          el('label', { for: input.id }, `Feature ${letter}`),
          el(
            'div',
            { class: 'compared-field' },
            input,
            place > 1 &&
              el(
                'button',
                {
                  type: 'button',
                  class: 'small',
                  'aria-label': `Remove feature ${letter}`,
                  onclick: () => {
                    number(typed().filter((_, other) => other !== place))
                    announce(`Feature ${letter} removed`)
                    inputs().at(-1).focus()
                  },
                },
                'Remove',
              ),
          ),
        )
      }),
    )
    add.disabled = names.length >= LETTERS.length
  }

  function swapped() {
    const [a, b, ...others] = typed()
    number([b, a, ...others])
    form.element.requestSubmit()
  }

  function update({ names, texts }) {
    // The same as before leaves what was typed since.
    if (told !== names.join() && (typed().map(trimmed).join() !== names.join() || inputs().length < 2))
      number([...names, '', ''].slice(0, Math.max(2, names.length)))
    told = names.join()
    form.set(texts)
    const quiet = first
    first = false
    const features = names.map((name, place) => ({
      letter: LETTERS[place].toUpperCase(),
      id: featureId(name),
      name: name.toUpperCase(),
    }))
    const wrong = refused(features)
    fill(refusal, wrong)
    results.hidden = wrong !== null
    if (wrong !== null) return
    const key = names.join()
    const shown = same.load(
      JSON.stringify([names, texts]),
      async (signal) => {
        if (!texts.length) return el('p', { class: 'quiet' }, 'Type a text above to see where each fires.')
        return sameText(
          await encode(
            texts,
            features.map((one) => one.id),
            { signal },
          ),
          features,
          texts,
        )
      },
      { words: 'Encoding …', say: quiet ? null : () => `${features.length} features on ${texts.length} texts` },
    )
    return Promise.all([
      shown,
      known.load(key, (signal) => knownTable(features, texts, signal)),
      alike.load(key, (signal) => pairsTable(features, { signal }), { words: 'Comparing …' }),
    ])
  }

  return { element, update, leave: () => sections.forEach((one) => one.leave()) }
}

function trimmed(name) {
  return name.trim().toLowerCase()
}

/** Why these cannot be compared; null where they can. */
function refused(features) {
  if (features.length < 2) {
    return el(
      'p',
      {},
      features.length
        ? 'Name a second feature to compare it with.'
        : 'Name two features, such as 0-demo:1633, and a text: each is shown with a scale of its own, their values ' +
            'token by token, and how alike they are.',
    )
  }
  const unnamed = features.find((one) => one.id === null)
  if (unnamed)
    return problem({
      status: 'INVALID_ARGUMENT',
      message:
        `Feature ${unnamed.letter}: ${unnamed.name} is no name of a feature; ` +
        'source and index are expected, such as 0-demo:1633.',
    })
  const twice = features.find(
    (one, place) => features.findIndex((other) => featureName(other.id) === featureName(one.id)) < place,
  )
  return twice
    ? problem({ status: 'INVALID_ARGUMENT', message: `Feature ${twice.letter}: ${twice.name} is already among them.` })
    : null
}

/** Facts, a column for each feature. One that cannot be told says why above, and does not take the others with it. */
async function knownTable(features, texts, signal) {
  const asked = await Promise.allSettled(features.map((one) => call('get-feature', { feature: one.id }, { signal })))
  signal.throwIfAborted()
  const failed = asked.flatMap(({ reason }) => (reason ? [problem(reason)] : []))
  const told = asked.flatMap(({ value }, place) =>
    value ? [{ ...features[place], answer: value, lines: factLines(value) }] : [],
  )
  if (!told.length) return failed
  const rows = told[0].lines
    .map(([name], row) => [name, told.map((one) => one.lines[row][1])])
    .filter(([, cells]) => cells.some((shown) => shown !== null))
  rows.unshift(['usually on', told.map((one) => usual(one.answer.facts))])
  if (told.some((one) => one.answer.facts.explanations.length))
    rows.unshift(['explanations', told.map((one) => explanations(one.answer.facts) ?? '–')])
  return [
    failed,
    el(
      'div',
      { class: 'wide', tabindex: '0', role: 'region', 'aria-label': 'Table of what is known' },
      el(
        'table',
        { class: 'known' },
        el(
          'thead',
          {},
          el(
            'tr',
            {},
            el('td', {}),
            told.map((one) =>
              el('th', { scope: 'col' }, `${one.letter} `, featureLink(one.answer.facts, { text: texts })),
            ),
          ),
        ),
        el(
          'tbody',
          {},
          rows.map(([name, cells]) =>
            el(
              'tr',
              {},
              el('th', { scope: 'row' }, name),
              cells.map((shown) => el('td', {}, shown ?? '–')),
            ),
          ),
        ),
      ),
    ),
  ]
}
