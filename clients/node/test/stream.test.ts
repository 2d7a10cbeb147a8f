/** EncodeStream: order, errors of single texts, bounded reading, and going on when a server goes away. */

import assert from 'node:assert/strict'
import dns from 'node:dns/promises'
import { syncBuiltinESMExports } from 'node:module'
import { setTimeout as sleep } from 'node:timers/promises'
import { after, describe, test } from 'node:test'
import { create } from '@bufbuild/protobuf'
import * as grpc from '@grpc/grpc-js'
import {
  Client,
  type EncodeStreamRequest,
  EncodeStreamResponseSchema,
  type EncodeStreamResponse,
  type StreamItem,
} from 'saeserve'
import { assertClose, needsServer, refusal, refused, serve, TARGET, using } from './support.js'

describe('a running server', needsServer, () => {
  const client = new Client(TARGET || undefined)
  after(() => client.close())

  test('each text is answered like encode answers it, in order', async () => {
    const texts = Array.from({ length: 40 }, (_, place) => `Text ${place}: ${'the red hat. '.repeat(place % 7)}`)
    const whole = await client.encode(texts.slice(0, 3), { sources: '0-demo' })
    const items = await all(client.encodeStream(texts, { sources: ['0-demo', '1'], window: 5 }))
    assert.deepEqual(
      items.map(({ sequence }) => sequence),
      texts.map((_, place) => place),
    )
    assert.ok(items.every(({ error }) => error === undefined))
    for (const [place, text] of whole.texts.entries()) {
      const result = items[place]!.result!
      const [got, wanted] = [result.sparse.get('0-demo')!, text.sparse.get('0-demo')!]
      assert.deepEqual([got.rows, got.indptr, got.indices], [wanted.rows, wanted.indptr, wanted.indices])
      assertClose(got.data, wanted.data)
      assert.deepEqual(result.tokens, text.tokens)
      assert.equal(result.neurons.get('1')!.rows, result.tokens.length)
    }
  })

  test('a long text comes in several chunks, put together', async () => {
    const text = 'the red hat and the blue sky. '.repeat(25)
    const [item] = await all(client.encodeStream([text], { sources: ['0', '1', '2', '3', '0-demo'], omitTokens: true }))
    const { neurons, sparse } = item!.result!
    const tokens = (await client.tokenize(text)).tokens.length
    assert.deepEqual(
      [...neurons.values()].map(({ rows, columns }) => [rows, columns]),
      Array(4).fill([tokens, 512]),
    )
    assert.equal(sparse.get('0-demo')!.rows, tokens)
  })

  test('a text that cannot be encoded has its own error, and the others are answered', async () => {
    async function* texts() {
      yield 'red'
      yield ''
      await sleep(10)
      yield 'half \ud83d'
      yield [373]
    }
    const items = await all(client.encodeStream(texts(), { features: ['0-demo:1633'] }))
    assert.deepEqual(
      items.map(({ error }) => error?.reason),
      [undefined, 'TEXT_EMPTY', 'INVALID_TEXT', undefined],
    )
    assertClose(items[0]!.result!.dense!.data, items[3]!.result!.dense!.data)
    assert.equal(items[2]!.error!.violations[0]!.field, 'texts[2]')
  })

  test('texts are read as they are needed, and closed by who stops early', async () => {
    let [read, ended] = [0, false]
    function* texts() {
      try {
        for (;;) yield `Text ${read++}`
      } finally {
        ended = true
      }
    }
    for await (const { sequence } of client.encodeStream(texts(), { sources: '0-demo', window: 4 })) {
      assert.ok(read <= sequence + 5, `${read} texts read for item ${sequence}`)
      if (sequence === 20) break
    }
    assert.ok(ended)
  })

  test('the caller’s own error comes through; so does a configuration that cannot be served', async () => {
    function* texts() {
      yield 'red'
      throw new RangeError('mine')
    }
    await assert.rejects(all(client.encodeStream(texts(), { sources: '0-demo' })), {
      name: 'RangeError',
      message: 'mine',
    })
    assert.equal((await refusal(all(client.encodeStream(['red'], { sources: '9-demo' })))).reason, 'SOURCE_NOT_FOUND')
    assert.deepEqual(await all(client.encodeStream([], { sources: '0-demo' })), [])
  })
})

const GONE = refused(grpc.status.UNAVAILABLE, 'DRAINING', 'the server is going away', 20)

test('a server that goes away is asked again for what it has not answered', async (t) => {
  const asked: string[][] = []
  const fake = await serve(t, {
    encodeStream: streaming((call, number) => {
      asked.push([])
      call.on('data', ({ message }: EncodeStreamRequest) => {
        if (message.case !== 'item') return
        const { sequence } = message.value
        asked[number]!.push(String(sequence))
        // The first call answers two items, one of them by half, and ends; the second nothing.
        if (number === 0 && sequence === 1n) call.write(chunk(sequence, false))
        else if (number === 2 || sequence === 0n) call.write(chunk(sequence, true))
        if (number < 2 && sequence === 2n) call.emit('error', GONE)
      })
    }),
  })
  const items = await using(new Client(fake.target), (client) =>
    all(client.encodeStream(['a', 'b', 'c', 'd'], { sources: 'x' })),
  )
  assert.deepEqual(
    items.map(({ sequence, error }) => [sequence, error]),
    [0, 1, 2, 3].map((one) => [one, undefined]),
  )
  assert.ok(asked.length >= 3)
  assert.ok(
    asked.slice(1).every((sequences) => !sequences.includes('0')),
    JSON.stringify(asked),
  )
  assert.ok(asked.at(-1)!.includes('1'))
})

test('a stream on which calls fail for too long ends with their error; without an answer, late', async (t) => {
  const failing = await serve(t, { encodeStream: streaming((call) => void call.emit('error', GONE)) })
  const gone = await using(new Client(failing.target), (client) =>
    refusal(all(client.encodeStream(['a'], { sources: 'x', timeoutMs: 2000 }))),
  )
  assert.deepEqual([gone.name, gone.reason], ['Unavailable', 'DRAINING'])
  const silent = await serve(t, { encodeStream: (call) => void call.resume() })
  const late = await using(new Client(silent.target), (client) =>
    refusal(all(client.encodeStream(['a'], { sources: 'x', timeoutMs: 100 }))),
  )
  assert.equal(late.name, 'DeadlineExceeded')
  assert.match(late.message, /no answer on the stream within 0.1 s, 1 items unanswered/)
})

test('a server that falls silent is noticed in time, though texts go on coming', async (t) => {
  // It answers each item once the next has come, so that one is always unanswered; 12 in all.
  const fake = await serve(t, { encodeStream: answering((sequence) => sequence < 13n && sequence - 1n) })
  let read = 0
  async function* texts() {
    for (; read < 100; read++) {
      await sleep(30)
      yield 'a'
    }
  }
  let answered = 0
  const late = await using(new Client(fake.target, { timeoutMs: 300 }), (client) =>
    refusal(
      (async () => {
        for await (const { error } of client.encodeStream(texts(), { sources: 'x', window: 100 })) {
          answered += Number(error === undefined)
        }
      })(),
    ),
  )
  assert.equal(late.name, 'DeadlineExceeded')
  // Those took longer than the timeout: each answer renewed it.
  assert.equal(answered, 12)
  assert.ok(read < 50, `${read} texts were read`)
})

test('a name that is not known for a moment is looked up again', async (t) => {
  const fake = await serve(t, { encodeStream: answering((sequence) => sequence) })
  let lookups = 0
  t.mock.method(dns, 'lookup', (async () => {
    if (lookups++ < 4) throw new Error('EAI_AGAIN') // two targets, by IPv4 and by IPv6
    return [{ address: '127.0.0.1', family: 4 }]
  }) as never)
  syncBuiltinESMExports()
  t.after(() => {
    t.mock.restoreAll()
    syncBuiltinESMExports()
  })
  const port = fake.target.split(':')[1]
  const items = await using(new Client(`one.invalid:${port},one.invalid:${port}`), (client) =>
    all(client.encodeStream(['a'], { sources: 'x' })),
  )
  assert.deepEqual([items.length, items[0]!.error], [1, undefined])
})

test('an item as JSON: counts as texts, activations as arrays, the words of an error', async (t) => {
  const fake = await serve(t, { encodeStream: answering((sequence) => sequence) })
  const items = await using(new Client(fake.target), (client) =>
    all(client.encodeStream(['a', 'half \ud83d'], { sources: 'x' })),
  )
  const [item, wrong] = JSON.parse(JSON.stringify(items))
  assert.deepEqual([item.sequence, item.callInfo.totalMicros], [0, '0'])
  assert.deepEqual(item.result.dense, { rows: 1, columns: 1, data: [[0]] })
  assert.deepEqual([wrong.sequence, wrong.error.reason, wrong.error.status], [1, 'INVALID_TEXT', 'INVALID_ARGUMENT'])
  assert.match(wrong.error.message, /texts\[1\] is not Unicode/)
})

test('a server that sends what was not asked for is refused', async (t) => {
  const fake = await serve(t, { encodeStream: streaming((call) => void call.write(chunk(7n, true))) })
  const error = await using(new Client(fake.target), (client) =>
    refusal(all(client.encodeStream(['a'], { sources: 'x' }))),
  )
  assert.deepEqual([error.name, error.reason], ['Internal', 'MALFORMED_ANSWER'])
})

test('a caller who reads slowly holds the server back', async (t) => {
  const parts = 200
  let written = 0
  const fake = await serve(t, {
    encodeStream: (call: Call) => {
      call.on('data', async ({ message }: EncodeStreamRequest) => {
        if (message.case !== 'item') return
        const { sequence } = message.value
        if (sequence === 0n) call.write(chunk(sequence, true))
        for (let part = 0; sequence === 1n && part < parts; part++) {
          if (!call.write(chunk(sequence, part === parts - 1, part, 64 * 1024))) {
            await new Promise((resolve) => call.once('drain', resolve))
          }
          written += 1
        }
        if (sequence === 1n) call.end()
      })
    },
  })
  await using(new Client(fake.target), async (client) => {
    const items = client.encodeStream(['a', 'b'], { sources: 'x' })
    await items.next()
    await sleep(300)
    assert.ok(written < 100, `${written} chunks of ${parts} were sent to who did not read`)
    const { value } = await items.next()
    assert.equal((value as StreamItem).result!.dense!.rows, parts)
  })
})

type Call = grpc.ServerDuplexStream<EncodeStreamRequest, EncodeStreamResponse>

/** A method that is told which call this is, from 0, and ends when its caller does. */
function streaming(work: (call: Call, number: number) => void) {
  let count = 0
  return (call: Call) => {
    call.on('end', () => call.end())
    work(call, count++)
  }
}

/** A method that at each item answers the one it is told, if any. */
function answering(which: (sequence: bigint) => bigint | false) {
  return streaming((call) => {
    call.on('data', ({ message }: EncodeStreamRequest) => {
      const sequence = message.case === 'item' && which(message.value.sequence)
      if (sequence !== false && sequence >= 0n) call.write(chunk(sequence, true))
    })
  })
}

/** Rows of an item: one row of `bytes` bytes for each part. */
function chunk(sequence: bigint, last: boolean, rowStart = 0, bytes = 4) {
  const dense = { source: '', rows: 1, columns: bytes / 4, data: new Uint8Array(bytes) }
  const value = {
    text: rowStart === 0 ? {} : undefined,
    rowStart,
    last,
    rows: { case: 'dense' as const, value: dense },
  }
  return create(EncodeStreamResponseSchema, { callInfo: {}, sequence, answer: { case: 'chunk', value } })
}

async function all(items: AsyncIterable<StreamItem>): Promise<StreamItem[]> {
  const found = []
  for await (const item of items) found.push(item)
  return found
}
