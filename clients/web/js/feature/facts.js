// What is known of a feature: what it is, how often and how strongly it fires, on which tokens, how it was explained.

import { el } from '../dom.js'
import { entry, share, spaced, value, visible, whole } from '../format.js'

const KINDS = { FEATURE_KIND_LATENT: 'latent', FEATURE_KIND_NEURON: 'neuron' }
const WORDS = {
  DENSITY_ORIGIN_INDEX: 'in the index',
  DENSITY_ORIGIN_FILE: "by the SAE's file",
  DENSITY_ORIGIN_IMPORT: 'as imported',
}

/** `latent` or `neuron`. */
export function kind(facts) {
  return entry(KINDS, facts.kind) ?? 'feature'
}

/** A density, or a largest activation, and by whose word. */
function byWhom(shown, origin) {
  const words = entry(WORDS, origin)
  return words ? [shown, ' ', el('span', { class: 'quiet' }, words)] : [shown]
}

/** By whose word the densities of a source are known. */
export function sourceDensity({ densityOrigin }) {
  return entry(WORDS, densityOrigin) ?? 'not known'
}

/** Names and values of facts. `answer` is that of GetFeature; what does not apply has no value. */
export function factLines({ facts, source, dead, decoderNorm }) {
  return [
    ['kind', `${kind(facts)} of layer ${facts.layer}`],
    ['set', el('code', {}, source.set)],
    [
      'source',
      [el('code', {}, source.name), ' ', el('span', { class: 'quiet' }, `${whole(source.nFeatures)} features`)],
    ],
    ['hook point', el('code', {}, source.hookName)],
    ['architecture', source.architecture],
    ['density', facts.density === undefined ? 'not known' : byWhom(share(facts.density), facts.densityOrigin)],
    ['dead', dead === undefined ? 'not known: no density is' : dead ? 'yes: it never fires' : 'no'],
    [
      'largest activation',
      facts.indexMaxActivation === undefined
        ? 'not known'
        : byWhom(value(facts.indexMaxActivation), facts.indexMaxOrigin),
    ],
    ['decoder norm', decoderNorm === undefined ? null : value(decoderNorm)],
    ['normalisation', source.normalization === 'none' ? null : source.normalization || null],
  ]
}

/** The same in a list. */
export function factList(answer) {
  const lines = factLines(answer).filter(([, shown]) => shown !== null)
  return el(
    'dl',
    { class: 'facts' },
    lines.map(([name, shown]) => el('div', {}, el('dt', {}, name), el('dd', {}, shown))),
  )
}

/** How often a feature fires, in a sentence. */
export function firing({ tokens, fires, density, firesInTexts, texts, meanActivation, maxActivation }) {
  if (Number(fires) === 0) return el('p', {}, `It never fired on the ${whole(tokens)} tokens of the index.`)
  return el(
    'p',
    {},
    'Fires on ',
    el('strong', {}, whole(fires)),
    ` of ${whole(tokens)} tokens (${share(density)}), in ${whole(firesInTexts)} of `,
    `${whole(texts)} texts; mean `,
    el('strong', {}, value(meanActivation)),
    ', max ',
    el('strong', {}, value(maxActivation)),
    '.',
  )
}

/** Peak tokens, and in how many of the kept records each is the peak. */
export function usualTokens(tokens) {
  if (!tokens?.length) return el('p', { class: 'quiet' }, 'No usual tokens are known.')
  return el(
    'ul',
    { class: 'usual-list', 'aria-label': 'Tokens on which it usually fires, with the number of records' },
    tokens.map((one) =>
      el(
        'li',
        {},
        el(
          'bdi',
          { class: 'chip', title: `largest activation ${value(one.maxActivation)}` },
          spaced(one.token.display ?? ''),
        ),
        el('span', { class: 'quiet number' }, ` ${whole(one.count)}`),
      ),
    ),
  )
}

/** Every explanation that was imported: words, score and by whom. */
export function explanations(facts) {
  if (!facts.explanations?.length) return null
  return el(
    'ul',
    { class: 'explanations', 'aria-label': 'Explanations' },
    facts.explanations.map((one) => {
      const by = [one.type, one.model, one.origin && `from ${one.origin}`].filter(Boolean).join(', ')
      const score = one.score === undefined ? '' : `score ${one.score.toFixed(2)}`
      return el(
        'li',
        {},
        el('bdi', { class: 'explanation' }, visible(one.text)),
        ' ',
        el('span', { class: 'quiet' }, visible([score, by].filter(Boolean).join(', '))),
      )
    }),
  )
}

/** What a reader of the source's numbers should know. */
export function warnings(source) {
  if (!source.warnings?.length) return null
  return el(
    'details',
    {},
    el('summary', {}, 'What to know of this source'),
    el(
      'ul',
      {},
      source.warnings.map((words) => el('li', {}, visible(words))),
    ),
  )
}
