'use strict'

const assert = require('node:assert')
const test = require('node:test')

const handler = require('./handler')

test('it sends back what it got', async () => {
  let answer
  const context = {
    status: () => context,
    headers: () => context,
    succeed: (value) => { answer = value },
  }

  await handler({ body: 'ahoy' }, context)

  assert.strictEqual(answer.body, 'ahoy')
})
