'use strict'

/** A request that the watchdog answers itself. */
class Refusal extends Error {
  constructor(status, text) {
    super(text)
    this.status = status
  }
}

module.exports = { Refusal }
