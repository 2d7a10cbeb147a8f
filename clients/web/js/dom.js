// Elements from plain values. Text from models and users goes in as text and never as HTML: there is no other way in.

/**
 * An element. `attributes`: `class`, `aria-…`, `data-…` and others as strings; true for one without a value; null,
 * undefined and false leave it out; functions under `on…` are listeners. Children are elements, texts, numbers, lists
 * of them; null and false are left out.
 */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue
    if (name.startsWith('on')) made.addEventListener(name.slice(2), value)
    else made.setAttribute(name, value === true ? '' : String(value))
  }
  made.append(...shown(children))
  return made
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, String(value))
  }
  made.append(...shown(children))
  return made
}

/** Puts these children in the place of those that an element has. */
export function fill(element, ...children) {
  element.replaceChildren(...shown(children))
  return element
}

function shown(children) {
  return children
    .flat(Infinity)
    .filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => (child instanceof Node ? child : String(child)))
}

const written = new WeakMap()

/** Writes into a field what the address says, if that is other than the last time: what was typed since stays. */
export function follow(field, said) {
  if (written.get(field) === said) return
  written.set(field, said)
  if (field.value !== said) field.value = said
  field.setCustomValidity('')
}

/** Says something to those who do not see what changed on the page. */
export function announce(words) {
  document.getElementById('status').textContent = words
}
