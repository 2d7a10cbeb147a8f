// Controls that narrow what is shown, and what they mean to the contract.

import { el } from '../dom.js'
import { layerRanges, parseLayers } from '../search/layers.js'
import { enumName } from './state.js'

/** Which kinds of features are looked among, for `select`. */
export const KINDS = [
  ['', 'latents and neurons'],
  ['latent', 'latents'],
  ['neuron', 'neurons'],
]

/** A choice of `[value, words]`. `onChoose(value)` is called when another is chosen. */
export function select(options, onChoose) {
  const made = el(
    'select',
    { onchange: () => onChoose(made.value) },
    options.map(([key, words]) => el('option', { value: key }, words)),
  )
  return made
}

/** A control below its name. */
export function labelled(words, control) {
  return el('label', {}, el('span', {}, words), control)
}

/** A field of layers, such as `0-3,5`. What is not written so is told at the field, and not handed on. `follow` it. */
export function layersField(onChoose) {
  const field = el('input', {
    type: 'text',
    placeholder: 'all',
    size: '5',
    autocomplete: 'off',
    onchange: () => {
      field.setCustomValidity(parseLayers(field.value) ? '' : 'Layers as 2, 0-3 or 0-3,5')
      if (field.reportValidity()) onChoose(field.value.replace(/\s/g, ''))
    },
  })
  return field
}

/** The filter of a state with `kind` and `layers`. Throws for layers that cannot be read. */
export function among({ kind, layers }) {
  const include = {}
  if (kind) include.kinds = [enumName('FEATURE_KIND', kind)]
  const read = parseLayers(layers)
  if (read === null) throw new Error(`layers: ${layers}; such as 2, 0-3 or 0-3,5 is expected`)
  if (read.length) include.layers = layerRanges(read)
  return { include }
}
