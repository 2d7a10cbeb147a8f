// The test box: variants of a text, and how strongly the feature fires on each.

import { callOnce } from '../api.js'
import { el } from '../dom.js'
import { encode, peak } from './encode.js'
import { section } from './section.js'
import { sideBySide, told } from './side_by_side.js'
import { variantsForm } from './variants_form.js'

/**
 * `change(part)` shows another part of the state; `onResult([{label, title, value}])` is told each variant's maximum.
 * `update(state, most)` shows what the state says; `copy(text)` puts a text twice into the box, the second to be
 * edited.
 */
export function testBox(feature, { change, onResult }) {
  let limit = 64
  callOnce('get-server-info').then(
    (info) => {
      limit = info.limits.maxInputs
    },
    () => {},
  )
  const form = variantsForm({
    onEncode: (texts) => change({ texts }),
    most: () => limit,
    hint: 'Change a word in a variant and encode (Ctrl+Enter): see what it does.',
  })
  const note = el(
    'p',
    { class: 'note', hidden: true },
    'Of the record the stretch that is shown below was copied. Read by itself, without what stood before it, ',
    "its values may differ from the record's.",
  )
  const part = section('Test box', { className: 'test-box panel', controls: [form.element, note] })
  let first = true
  let after = null
  let copied = null

  function update(state, most) {
    form.set(state.texts)
    note.hidden = copied === null || state.texts[0] !== copied
    after?.()
    after = null
    const quiet = first
    first = false
    let texts = []
    return part.load(
      JSON.stringify(state.texts),
      async (signal) => {
        onResult([])
        if (!state.texts.length) return el('p', { class: 'quiet' }, 'Type a text, or copy one of those below.')
        texts = await encode(state.texts, [feature], { signal })
        onResult(
          texts.map((text, place) => ({
            label: place + 1,
            title: `Variant ${place + 1}`,
            value: peak(text.columns[0])?.value ?? 0,
          })),
        )
        return sideBySide(texts, 0, { most: await most })
      },
      { words: 'Encoding …', say: quiet ? null : () => (texts.length ? told(texts, 0) : 'The test box is empty') },
    )
  }

  function copy(text) {
    after = () => form.edit(1)
    copied = text
    form.giveUp()
    change({ texts: [text, text] })
  }

  return { ...part, update, copy }
}
