// What the page keeps for the tab: beyond a reload where the browser gives it a storage, and where it gives none (site
// data are blocked, or full) for the life of the page.

const here = new Map()

/** What was kept under a name; null where nothing was. */
export function kept(name) {
  if (here.has(name)) return here.get(name)
  try {
    return sessionStorage.getItem(name)
  } catch {
    return null
  }
}

/** Keeps a text. */
export function keep(name, text) {
  here.delete(name)
  try {
    sessionStorage.setItem(name, text)
  } catch {
    here.set(name, text)
  }
}

/** Keeps it no longer. */
export function forget(name) {
  here.delete(name)
  try {
    sessionStorage.removeItem(name)
  } catch {
    // There it never was.
  }
}
