/** One attempt of a call on a channel: unary, with a stream of requests, or with streams both ways. */

import { Readable, type Writable } from 'node:stream'
import type { DescMessage, DescMethod, MessageShape } from '@bufbuild/protobuf'
import { fromBinary, toBinary } from '@bufbuild/protobuf'
import type { Client as Channel, ClientDuplexStream, ClientUnaryCall, Metadata, ServiceError } from '@grpc/grpc-js'

/** How a method is called: its path, its messages as bytes. */
export function wired<I extends DescMessage, O extends DescMessage>(method: DescMethod & { input: I; output: O }) {
  return {
    path: `/${method.parent.typeName}/${method.name}`,
    serialize: (message: MessageShape<I>): Buffer => {
      const bytes = toBinary(method.input, message)
      return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
    },
    // Not as a Buffer: its `slice` is a view, where that of any other Uint8Array is a copy.
    deserialize: (bytes: Buffer): MessageShape<O> =>
      fromBinary(method.output, new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length)),
  }
}

type Wired<I, O> = {
  path: string
  serialize: (message: I) => Buffer
  deserialize: (bytes: Buffer) => O
}

/** The answer to one request, or to an array of them. Rejects with gRPC's error, or with the signal's reason. */
export function ask<I, O>(
  channel: Channel,
  { path, serialize, deserialize }: Wired<I, O>,
  request: I | I[],
  metadata: Metadata,
  deadline: number,
  signal: AbortSignal,
): Promise<O> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) {
      reject(signal.reason)
      return
    }
    const cancel = () => {
      reject(signal.reason)
      call.cancel()
    }
    const done = (error: ServiceError | null, answer?: O) => {
      signal.removeEventListener('abort', cancel)
      if (error) reject(error)
      else resolve(answer!)
    }
    let call: ClientUnaryCall
    if (Array.isArray(request)) {
      const stream = channel.makeClientStreamRequest(path, serialize, deserialize, metadata, { deadline }, done)
      Readable.from(request).pipe(stream as unknown as Writable) // grpc-js declares its streams by hand
      call = stream
    } else {
      call = channel.makeUnaryRequest(path, serialize, deserialize, request, metadata, { deadline }, done)
    }
    signal.addEventListener('abort', cancel, { once: true })
  })
}

/** What is waited for, at most until the deadline; rejects with `late`, or with the signal's reason. */
export function within<T>(work: Promise<T>, deadline: number, signal: AbortSignal, late: () => Error): Promise<T> {
  return new Promise((resolve, reject) => {
    const left = Math.max(0, deadline - Date.now())
    const timer = left < 2 ** 31 ? setTimeout(() => reject(late()), left) : undefined
    const stop = () => reject(signal.reason)
    if (signal.aborted) stop()
    signal.addEventListener('abort', stop, { once: true })
    const done = () => {
      clearTimeout(timer)
      signal.removeEventListener('abort', stop)
    }
    work.finally(done).then(resolve, reject)
  })
}

/** The answers of a stream, read as they are asked for, so that gRPC's flow control holds the server back. */
export class Answers<I, O> {
  readonly #call: ClientDuplexStream<I, O>
  #failure: ServiceError | undefined
  #ended = false
  #wake = () => {}

  constructor(channel: Channel, { path, serialize, deserialize }: Wired<I, O>, metadata: Metadata) {
    this.#call = channel.makeBidiStreamRequest(path, serialize, deserialize, metadata, {})
    this.#call.on('readable', () => this.#wake())
    this.#call.on('error', (error: ServiceError) => {
      this.#failure = error
      this.#wake()
    })
    this.#call.on('end', () => {
      this.#ended = true
      this.#wake()
    })
  }

  /** The next answer; undefined at the end. Rejects with gRPC's error once what came before it was read. */
  async next(): Promise<O | undefined> {
    for (;;) {
      const answer: O | null = this.#call.read()
      if (answer !== null) return answer
      if (this.#failure) throw this.#failure
      if (this.#ended) return undefined
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
  }

  write(message: I): void {
    if (!this.#failure) this.#call.write(message)
  }

  end(): void {
    if (!this.#failure) this.#call.end()
  }

  cancel(): void {
    this.#call.cancel()
  }
}
