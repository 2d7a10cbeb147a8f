// Generates src/gen from the contract, or a copy of it in the folder that is named: `npm run generate [-- FOLDER]`.
//
// buf comes with the development environment of the repository (`make setup`), or is found on the PATH. It is no npm
// dependency: its package is 93 MB, for something that is needed after a change of the contract only.

import { spawnSync } from 'node:child_process'
import { existsSync, rmSync } from 'node:fs'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = fileURLToPath(new URL('..', import.meta.url))
const own = resolve(here, '../../.venv/bin/buf')
const buf = existsSync(own) ? own : 'buf'
const into = process.argv[2]
const out = resolve(into ?? resolve(here, 'src/gen'))

rmSync(out, { recursive: true, force: true })
// The template's `out` is relative to `--output`.
const where = into === undefined ? [] : ['--output', out]
const done = spawnSync(buf, ['generate', ...where], { cwd: here, stdio: 'inherit' })
if (done.error) {
  console.error(`buf is not there (${done.error.message}): run \`make setup\`, or see https://buf.build/docs/cli`)
}
process.exit(done.status ?? 1)
