'use strict'

/**
 * Answers one request.
 * event: body, headers, method, query, path. The result is sent back: text, an object as JSON, ...
 */
module.exports = async (event, context) => {
  return context.status(200).headers({ 'Content-Type': 'application/json' }).succeed({
    message: 'Hello from Slipway!',
    body: event.body,
  })
}
