// What is served: the model, its sources of features, the index, what was imported, and every limit.

import { address } from '../address.js'
import { callOnce } from '../api.js'
import { el, fill } from '../dom.js'
import { visible, whole } from '../format.js'
import { wideTable } from '../parts.js'
import { sourceDensity } from '../feature/facts.js'

export function title() {
  return 'What is served'
}

export async function show({ main, signal }) {
  const [{ sources }, info] = await Promise.all([callOnce('list-sources'), callOnce('get-server-info')])
  signal.throwIfAborted()
  fill(
    main,
    el('h1', {}, 'What is served'),
    el('h2', {}, 'Model'),
    listed(model(info)),
    el('h2', {}, 'Sources'),
    table(
      'Table of sources',
      ['source', 'kind', 'layer', 'set', 'hook point', 'architecture', 'width', 'features', 'dead', 'density'],
      sources.map((one) => [
        el('a', { class: 'feature', href: address('feature', `${one.id}:0`) }, visible(one.name)),
        one.kind === 'FEATURE_KIND_NEURON' ? 'neurons' : 'latents',
        one.layer,
        el('code', {}, visible(one.set)),
        el('code', {}, visible(one.hookName)),
        one.kind === 'FEATURE_KIND_NEURON' ? '' : one.architecture,
        whole(one.dIn),
        whole(one.nFeatures),
        one.deadFeatures === undefined ? '–' : whole(one.deadFeatures),
        sourceDensity(one),
      ]),
    ),
    notes(sources),
    el('h2', {}, 'Index'),
    index(info.index),
    el('h2', {}, 'Imported'),
    imported(info.imports),
    el('h2', {}, 'Limits'),
    limits(info.limits),
  )
}

function model({ model: one, version, device, deterministic, featureCount, sourceCount }) {
  return [
    ['model', visible(one.name)],
    ['layers', whole(one.nLayers)],
    ['residual stream', `${whole(one.dModel)} wide`],
    ['vocabulary', whole(one.vocabulary)],
    ['longest sequence', `${whole(one.contextTokens)} tokens`],
    ['features', `${whole(featureCount)} of ${whole(sourceCount)} sources`],
    ['runs on', visible(device)],
    ['server', visible(version)],
    ['deterministic', deterministic ? 'to the bit' : 'up to rounding'],
  ]
}

function index(one) {
  if (!one)
    return el(
      'p',
      {},
      'There is none: texts, densities and usual tokens are known only as imported, or from SAE files.',
    )
  return listed([
    ['texts', whole(one.texts)],
    ['tokens', whole(one.tokens)],
    ['block', `${whole(one.context)} tokens`],
    ['records of a feature', `at most ${whole(one.recordsPerFeature)}`],
    ['revision', el('code', {}, one.revision)],
  ])
}

function imported(all) {
  if (!all.length) return el('p', {}, 'Nothing.')
  return table(
    'Table of imports',
    ['name', 'format', 'features', 'records', 'explanations'],
    all.map((one) => [visible(one.name), one.format, whole(one.features), whole(one.records), whole(one.explanations)]),
  )
}

/** Limits by their names in the contract, as words: `maxTextBytes` is "max text bytes". */
function limits({ methods, ...numbers }) {
  const words = (name) => name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)
  return el(
    'details',
    {},
    el('summary', {}, 'Every limit that a request can meet'),
    listed(Object.entries(numbers).map(([name, number]) => [words(name), whole(number)])),
    table(
      'Largest requests',
      ['method', 'bytes'],
      methods.map((one) => [one.method, whole(one.maxRequestBytes)]),
    ),
  )
}

function notes(sources) {
  const warned = sources.filter((one) => one.warnings.length)
  return (
    warned.length > 0 &&
    el(
      'details',
      {},
      el('summary', {}, 'What to know of them'),
      el(
        'ul',
        {},
        warned.map((one) =>
          one.warnings.map((words) => el('li', {}, el('code', {}, visible(one.name)), ' ', visible(words))),
        ),
      ),
    )
  )
}

function listed(lines) {
  return el(
    'dl',
    { class: 'facts' },
    lines.map(([name, shown]) => el('div', {}, el('dt', {}, name), el('dd', {}, shown))),
  )
}

function table(label, head, rows) {
  return wideTable(
    label,
    head.map((words, place) => [words, rows.every((row) => /^[\d,–]+$/.test(row[place]))]),
    rows.map(([first, ...others]) =>
      el(
        'tr',
        {},
        el('th', { scope: 'row' }, first),
        others.map((shown) => el('td', { class: /^[\d,]+$/.test(shown) ? 'number' : null }, shown)),
      ),
    ),
  )
}
