// Paging through 25 pins by 10, replacing, and deleting, with @ipfs-shipyard/pinning-service-client.

import assert from 'node:assert/strict'
import { absentCid, assertRefused, client, everyStatus, requestids, whenPinned, wholeCid } from './client.mjs'

const mine = { status: everyStatus, meta: { made: 'for paging' } }
const added = []
for (let number = 0; number < 25; number++) {
  const cid = number % 2 ? await absentCid(`page ${number}`) : wholeCid(`page ${number}`)
  added.unshift(await client.pinsPost({ pin: { cid, name: `page ${number}`, meta: { made: 'for paging' } } }))
}
const expected = added.map(pin => pin.requestid)

const seen = []
const sizes = []
const counts = []
let before
for (;;) {
  const page = await client.pinsGet(before ? { ...mine, before } : mine)
  seen.push(...requestids(page))
  sizes.push(page.results.length)
  counts.push(page.count)
  if (page.count === page.results.length) {
    break
  }
  before = page.results.at(-1).created
}
assert.deepEqual(seen, expected, 'the pages together are something else than the pins, newest first')
assert.deepEqual([sizes, counts], [[10, 10, 5], [25, 15, 5]])

// The same upwards: each page ends just below the one before.
const upwards = await client.pinsGet({ ...mine, after: added[10].created })
assert.deepEqual([upwards.count, requestids(upwards)], [10, expected.slice(0, 10)])

const old = added[3]
const pin = { cid: wholeCid('instead'), name: 'instead', meta: { made: 'for paging' } }
const replacement = await client.pinsRequestidPost({ requestid: old.requestid, pin })
assert.notEqual(replacement.requestid, old.requestid)
assert.ok(replacement.created > added[0].created, 'the replacement is older than a pin from before')
await assertRefused(client.pinsRequestidGet({ requestid: old.requestid }), 404, 'NOT_FOUND')
await assertRefused(client.pinsRequestidPost({ requestid: old.requestid, pin }), 404, 'NOT_FOUND')
assert.equal((await whenPinned(replacement.requestid)).pin.cid, pin.cid)
const afterwards = await client.pinsGet({ ...mine, limit: 1000 })
assert.deepEqual(requestids(afterwards), [replacement.requestid, ...expected.filter(id => id !== old.requestid)])

let left = afterwards.count
for (const requestid of requestids(afterwards)) {
  await client.pinsRequestidDelete({ requestid })
  await assertRefused(client.pinsRequestidGet({ requestid }), 404, 'NOT_FOUND')
  await assertRefused(client.pinsRequestidDelete({ requestid }), 404, 'NOT_FOUND')
  left -= 1
  assert.equal((await client.pinsGet({ ...mine, limit: 1 })).count, left)
}
assert.equal(left, 0)
console.log(`${afterwards.count} pins in ${sizes.length} pages, replaced and deleted`)
