// Every filter of the client, alone and together, against the same selection made here.

import assert from 'node:assert/strict'
import { absentCid, assertRefused, client, clientWith, everyStatus, requestids, whenPinned, wholeCid } from './client.mjs'

const wanted = [
  { cid: wholeCid('report'), name: 'Report.pdf', meta: { app: 'one', kind: 'report' } },
  { cid: wholeCid('report'), name: 'report.pdf', meta: { app: 'two', kind: 'report' } },
  { cid: wholeCid('annual'), name: 'Annual Report.pdf', meta: { app: 'one', 'key with [brackets] & more': 'é=ü?' } },
  { cid: wholeCid('umlauts'), name: 'ÄRGER über 100%_' },
  { cid: wholeCid('no name') },
  { cid: await absentCid('absent'), name: 'absent Report.pdf', meta: { app: 'one' } },
  { cid: await absentCid('absent too'), name: 'Report.pdf' }
]
const pins = []
for (const pin of wanted) {
  const added = await client.pinsPost({ pin })
  assert.deepEqual([added.pin.cid, added.pin.name, added.pin.meta], [pin.cid, pin.name, pin.meta])
  const whole = !pin.name?.startsWith('absent') && pins.length < 6
  // Newest first, as they are listed.
  pins.unshift({ ...added, waits: !whole })
  if (whole) {
    await whenPinned(added.requestid)
  }
}

const matches = {
  exact: (name, text) => name === text,
  iexact: (name, text) => name.toLowerCase() === text.toLowerCase(),
  partial: (name, text) => name.includes(text),
  ipartial: (name, text) => name.toLowerCase().includes(text.toLowerCase())
}

function selects (filter, pin) {
  // Without a status only whole pins are listed, but for a look-up by name.
  const statuses = filter.status ?? (filter.name === undefined ? ['pinned'] : everyStatus)
  return statuses.includes(pin.waits ? 'queued' : 'pinned') &&
    (filter.cid?.includes(pin.pin.cid) ?? true) &&
    (filter.name === undefined || (pin.pin.name !== undefined && matches[filter.match ?? 'exact'](pin.pin.name, filter.name))) &&
    Object.entries(filter.meta ?? {}).every(([key, value]) => pin.pin.meta?.[key] === value) &&
    (filter.before === undefined || pin.created < filter.before) &&
    (filter.after === undefined || pin.created > filter.after)
}

// The statuses of what waits go together: which of the two a pin has may change at any moment.
const choices = {
  status: [undefined, ['pinned'], ['queued', 'pinning'], ['failed'], everyStatus],
  cid: [undefined, [wholeCid('report')], [wholeCid('annual'), pins[0].pin.cid, wholeCid('nobody asked for this')]],
  name: [undefined, ...['Report.pdf', 'REPORT.PDF', 'port', 'ärger', '%_', '.*', 'nothing'].flatMap(
    name => [undefined, ...Object.keys(matches)].map(match => ({ name, match })))],
  meta: [undefined, { app: 'one' }, { app: 'one', kind: 'report' }, { app: 'One' }, { 'key with [brackets] & more': 'é=ü?' }],
  range: [undefined, { before: pins[2].created }, { after: pins[4].created }, { before: pins[1].created, after: pins[5].created }],
  limit: [1000, undefined, 1, 2]
}

let asked = 0
let notEmpty = 0
async function compare (filter) {
  const page = await client.pinsGet(filter)
  const expected = pins.filter(pin => selects(filter, pin)).map(pin => pin.requestid)
  const shown = JSON.stringify(filter)
  assert.equal(page.count, expected.length, `count of ${shown}`)
  assert.deepEqual(requestids(page), expected.slice(0, filter.limit ?? 10), `results of ${shown}`)
  asked += 1
  notEmpty += expected.length > 0 ? 1 : 0
}

function build (status, cid, name, meta, range, limit) {
  const filter = { status, cid, ...name, meta, ...range, limit }
  return Object.fromEntries(Object.entries(filter).filter(([, value]) => value !== undefined))
}

// All pairs of filters, and of the rest as many as walking through the choices at different paces meets.
const keys = Object.keys(choices)
for (let first = 0; first < keys.length; first++) {
  for (let second = first + 1; second < keys.length; second++) {
    for (const one of choices[keys[first]]) {
      for (const two of choices[keys[second]]) {
        const chosen = keys.map((key, index) => index === first ? one : index === second ? two : choices[key][0])
        await compare(build(...chosen))
      }
    }
  }
}
for (let step = 0; step < 200; step++) {
  await compare(build(...keys.map((key, index) => choices[key][(step * (2 * index + 1)) % choices[key].length])))
}

await assertRefused(client.pinsGet({ limit: 0 }), 400, 'BAD_REQUEST')
await assertRefused(client.pinsGet({ limit: 1001 }), 400, 'BAD_REQUEST')
await assertRefused(client.pinsGet({ match: 'regex', name: 'a' }), 400, 'BAD_REQUEST')
await assertRefused(client.pinsGet({ cid: ['nonsense'] }), 400, 'BAD_REQUEST')
await assertRefused(clientWith('wrong').pinsGet({}), 401, 'UNAUTHORIZED')
assert.ok(notEmpty > asked / 10, `only ${notEmpty} of ${asked} lists show anything`)
console.log(`${asked} lists alike, ${notEmpty} of them not empty`)
