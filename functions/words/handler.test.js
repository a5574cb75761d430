'use strict'

const assert = require('node:assert')
const test = require('node:test')

const handler = require('./handler')

const count = (body, query = {}) => handler({ body, query }, {})

test('it counts lines, words and the most frequent ones', async () => {
  assert.deepStrictEqual(await count('To be, or not\nto be.\n', { top: '2' }), {
    lines: 2,
    words: 6,
    different: 4,
    top: { be: 2, to: 2 },
  })
})

test('it knows words of other languages', async () => {
  assert.strictEqual((await count("l'été où ça naît")).words, 4)
})

test('nothing has no words', async () => {
  assert.deepStrictEqual(await count(''), { lines: 0, words: 0, different: 0, top: {} })
})
