// What the address of a feature's page says: which variants stand in the test box, which records and which similar
// features are shown.

import { address, count, read } from '../address.js'

/** `10` records are shown unless the address says another number. */
export const PAGE = 10

/** What an address holds, with the usual values where it says nothing. `unread`: parts of it that cannot be read. */
export function state(params) {
  const unread = []
  return {
    unread,
    texts: params.getAll('text').filter((text) => text !== ''),
    group: params.get('group') ?? 'top',
    diversity: params.get('diversity') ?? 'none',
    threshold: params.get('threshold') ?? '',
    origin: params.get('origin') ?? '',
    records: count(params, 'records', unread, { unset: PAGE }),
    by: params.get('by') ?? 'decoder',
    kind: params.get('kind') ?? '',
    layers: params.get('layers') ?? '',
    similar: count(params, 'similar', unread, { unset: PAGE }),
  }
}

/** The address of a feature's page in some state: the inverse of `state`. */
export function addressOf(name, { texts, group, diversity, threshold, origin, records, by, kind, layers, similar }) {
  return address('feature', name, {
    text: texts,
    group: group === 'top' ? '' : group,
    diversity: diversity === 'none' ? '' : diversity,
    threshold,
    origin,
    records: records === PAGE ? '' : records,
    by: by === 'decoder' ? '' : by,
    kind,
    layers,
    similar: similar === PAGE ? '' : similar,
  })
}

/** Links to other features, and to the comparison with them, take these texts along: they are tested there too. */
export function carry(texts, element) {
  for (const link of element.querySelectorAll('a[href^="#/feature/"], a[href^="#/compare?"]')) {
    const { view, name, params } = read(link.getAttribute('href'))
    link.setAttribute('href', address(view, name, { ...Object.fromEntries(params), text: texts }))
  }
}

/** A name of the contract from the one in an address: `near-misses` is RECORD_GROUP_NEAR_MISSES. */
export function enumName(prefix, name) {
  return `${prefix}_${name.toUpperCase().replaceAll('-', '_')}`
}
