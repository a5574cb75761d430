'use strict'

// What the handler sees, and how it answers: by the context, a callback, or its result.

const { parseBody, parseQuery } = require('./body')

class FunctionEvent {
  /** request: {body, incoming, options, path, query} */
  constructor(request) {
    this.body = parseBody(request.body, request.incoming, request.options)
    this.headers = request.incoming.headers
    this.method = request.incoming.method
    this.query = parseQuery(request.query)
    this.path = request.path
  }
}

class FunctionContext {
  #status = 200
  #headers = {}
  #answer = Promise.withResolvers()

  status(value) {
    if (!value) return this.#status
    this.#status = value
    return this
  }

  headers(value) {
    if (!value) return this.#headers
    this.#headers = value
    return this
  }

  /** Answers with a value; the first answer counts. */
  succeed(value) {
    this.#answer.resolve({ status: this.#status, headers: this.#headers, body: value })
  }

  /** Answers with an error: its text as body, 500 unless another status was set. */
  fail(error) {
    console.error(error)
    if (Number(this.#status) === 200) this.#status = 500
    this.#answer.resolve({ status: this.#status, headers: this.#headers, body: String(error) })
  }

  /** Calls the handler; resolves to {status, headers, body}, rejects with what it threw. */
  run(handler, event) {
    const callback = (error, value) => (error ? this.fail(error) : this.succeed(value))
    const result = handler(event, this, callback)
    if (typeof result?.then === 'function') {
      result.then((value) => this.succeed(value), this.#answer.reject)
    } else if (result !== undefined || handler.length < 3) {
      this.succeed(result)
    } // else it will call back
    return this.#answer.promise
  }
}

module.exports = { FunctionContext, FunctionEvent }
