/** What cannot be meant is refused before anything is sent. */

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Client } from 'saeserve'
import { using } from './support.js'

const NOWHERE = '127.0.0.1:1'

const CALLS: Record<string, [(client: Client) => Promise<unknown>, RegExp]> = {
  'no text': [(client) => client.search(undefined as never), /text is undefined: expected a text, or token ids/],
  'half a pair': [(client) => client.search('x\ud800'), /text is not Unicode/],
  'a fraction as id': [(client) => client.tokenize([1, 2.5]), /text\[1\] is 2.5, not a whole number/],
  'an id below 0': [(client) => client.tokenize([-1]), /text\[0\] is -1, out of range/],
  'no feature': [(client) => client.getFeature('red'), /feature "red" is no feature: expected 'source:index'/],
  'an unknown kind': [
    (client) => client.search('a', { kinds: 'latents' as never }),
    /kinds is "latents", none of latent, neuron, all/,
  ],
  'layers the wrong way': [(client) => client.search('a', { layers: '3-1' }), /layers: "3-1" is no layer and no range/],
  'no sources at all': [(client) => client.search('a', { sources: [] }), /sources names nothing/],
  'an unknown ranking': [
    (client) => client.search('a', { ranking: 'best' as never }),
    /none of raw, relative, surprisal/,
  ],
  'a flag as text': [(client) => client.search('a', { byToken: 'no' as never }), /byToken is "no", not true or false/],
  'a limit of letters': [(client) => client.search('a', { limit: '3' as never }), /limit is "3", not a whole number/],
  'no time': [(client) => client.search('a', { timeoutMs: 0 }), /timeoutMs is 0: expected milliseconds above 0/],
  'one text for a side': [
    (client) => client.contrast('red' as never, []),
    /a is "red": give several texts in an array/,
  ],
  'a header with a line': [
    (client) => client.tokenize('a', { metadata: { x: 'a\nb' } }),
    /metadata: x is no printable ASCII/,
  ],
  'a vector that is none': [(client) => client.similar([1, Infinity]), /vector\[1\] is Infinity: no finite float32/],
  'a vector with a hole': [
    (client) => client.similar([1, null] as never),
    /vector\[1\] is null: no finite float32/,
  ],
  'a stream of letters': [(client) => client.encodeStream('red', { sources: 0 }).next(), /whose letters are no texts/],
  'no window': [(client) => client.encodeStream([], { sources: 0, window: 0 }).next(), /window.* is 0, out of range/],
}

for (const [what, [call, message]] of Object.entries(CALLS)) {
  test(what, () => using(new Client(NOWHERE), (client) => assert.rejects(async () => call(client), { message })))
}

const OPTIONS: [unknown, object, RegExp][] = [
  ['http://localhost:8080', {}, /is no address; HOST:PORT is expected/],
  ['localhost', {}, /is no address/],
  ['::1:50051', {}, /an IPv6 address stands in brackets/],
  ['localhost:70000', {}, /is no address/],
  [[], {}, /target is an array/],
  [NOWHERE, { tls: false, ca: 'x' }, /tls is false, but/],
  [NOWHERE, { ca: 'no PEM' }, /ca: no certificate in PEM/],
  [NOWHERE, { cert: 'x' }, /cert and key belong together/],
  [NOWHERE, { clientName: 'é' }, /64 printable ASCII/],
  [NOWHERE, { token: 'two words' }, /^token: a token is one word of printable ASCII characters$/],
  [NOWHERE, { maxMessageBytes: 0 }, /maxMessageBytes is 0/],
  ['10.0.0.1:1', { token: 'secret' }, /the token would go to 10.0.0.1:1 in plain text/],
  ['127.0.0.1:1,10.0.0.1:1', { token: 'secret' }, /in plain text/],
  ['dns://10.0.0.1/localhost:1', { token: 'secret' }, /in plain text/],
  ['10.0.0.1:1,10.0.0.2:1', { tls: true }, /several addresses over TLS need serverName/],
]

for (const [target, options, message] of OPTIONS) {
  test(`no client of ${target} with ${Object.keys(options)}`, () => {
    assert.throws(() => new Client(target as string, options), { message })
  })
}

for (const [target, options] of [
  ['[::1]:1', { token: 'secret' }],
  ['localhost.:1', { token: 'secret' }],
  ['unix:/tmp/none.sock', { token: 'secret' }],
  ['10.0.0.1:1', { token: 'secret', tls: true }],
  ['10.0.0.1:1', { token: 'secret', allowInsecureToken: true }],
  [['10.0.0.1:1', '10.0.0.2:1'], { tls: true, serverName: 'saeserve.example' }],
] as const) {
  test(`a client of ${target} with ${Object.keys(options)}`, () => new Client(target, options).close())
}
