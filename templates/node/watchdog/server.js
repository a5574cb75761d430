'use strict'

// Admits requests, calls the handler, bounds and counts it all, and drains at the end.
// The contract is of-watchdog's: /_/health and /_/ready, the lock file, the timeouts, max_inflight,
// X-Duration-Seconds, and X-OpenFaaS-Internal on answers that are not the handler's own.

const fs = require('node:fs')
const http = require('node:http')
const os = require('node:os')
const path = require('node:path')
const { Readable, pipeline } = require('node:stream')
const { setTimeout: sleep } = require('node:timers/promises')

const { checkSize, readBody } = require('./body')
const { duration } = require('./options')
const { Refusal } = require('./refusal')

const MAX_HEAD = 2 ** 20 // bytes of request line and headers; then 431
const IDLE_TIMEOUT = 75000 // longer than any proxy's pool keeps a connection
const BACKLOG = 4096
const QUIET = 50 // milliseconds without a new connection before the listening socket is closed
// Framing and the connection are the server's; a handler cannot be right about them.
const OURS = new Set(['connection', 'keep-alive', 'proxy-connection', 'transfer-encoding', 'upgrade',
  'trailer', 'content-length'])

class Watchdog {
  /** invoke: ({body, incoming, options, path, query}) => promise of {status, headers, body} */
  constructor(options, invoke) {
    this.options = options
    this.invoke = invoke
    this.draining = false
    this.inFlight = new Set()
    this.lock = path.join(os.tmpdir(), '.lock')
    this.connections = 0 // ever accepted
    this.server = http.createServer({
      maxHeaderSize: MAX_HEAD,
      requestTimeout: options.readTimeout,
      headersTimeout: options.readTimeout,
      keepAliveTimeout: IDLE_TIMEOUT,
      connectionsCheckingInterval: 500,
      requireHostHeader: false,
    })
    this.server.httpAllowHalfOpen = true // who stops sending may still read the answer
    this.server.on('connection', () => { this.connections += 1 })
    this.server.on('request', (incoming, response) => this.#arrived(incoming, response))
    this.server.on('checkContinue', (incoming, response) => this.#arrived(incoming, response, true))
  }

  /**
   * Serves until SIGTERM; then ends the process with status 0 once every request has its answer.
   * Listens on descriptor 3 if LISTEN_FDS is 1, else on all interfaces at the port.
   */
  async listen() {
    const where = process.env.LISTEN_FDS === '1' ? { fd: 3 } : { host: '0.0.0.0', port: this.options.port }
    await new Promise((resolve, reject) => {
      this.server.once('error', reject)
      this.server.listen({ ...where, backlog: BACKLOG }, resolve)
    })
    if (!this.options.suppressLock) fs.writeFileSync(this.lock, '', { mode: 0o600 })
    for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => this.#drain())
    process.on('uncaughtException', (error) => this.#crashed(error))
  }

  async #arrived(incoming, response, expects = false) {
    const call = { incoming, response, expects, started: process.hrtime.bigint(), timer: undefined }
    response.on('error', () => {}) // the client went away
    const question = incoming.url.indexOf('?')
    let target = question < 0 ? incoming.url : incoming.url.slice(0, question)
    if (!target.startsWith('/') && URL.canParse(target)) target = new URL(target).pathname
    call.path = target
    call.query = question < 0 ? '' : incoming.url.slice(question + 1)
    if (this.#ownPath(call)) return
    if (this.#full()) return this.#tooMany(call)
    this.inFlight.add(call)
    try {
      if (expects) {
        checkSize(incoming, this.options)
        response.writeContinue()
        call.expects = false
      }
      const body = await readBody(incoming, this.options)
      if (body === undefined) return
      this.#startClock(call)
      const answer = await this.invoke({ ...call, body, options: this.options })
      await this.#answer(call, answer)
    } catch (error) {
      if (error instanceof Refusal) return this.#refuse(call, error.status, error.message)
      console.error(error)
      this.#send(call, 500, 'The function failed; its log says why.')
    } finally {
      clearTimeout(call.timer)
      this.inFlight.delete(call)
    }
  }

  #startClock(call) {
    call.started = process.hrtime.bigint()
    let time = this.options.execTimeout
    const wish = duration(call.incoming.headers['x-timeout'] || '')
    if (wish && (!time || wish < time)) time = wish
    if (!time) return
    call.timer = setTimeout(() => {
      const seconds = time / 1000
      log(`${call.incoming.method} ${call.path} took longer than ${seconds} s: answered 504`)
      if (call.response.headersSent) call.response.destroy()
      else this.#refuse(call, 504, `The function did not answer within ${seconds} seconds.`)
      this.inFlight.delete(call)
    }, Math.min(time, 2 ** 31 - 1)) // of more setTimeout makes 1 ms
  }

  // Answers

  async #answer(call, { status, headers, body }) {
    const { response } = call
    if (response.headersSent || response.destroyed) return
    let type
    let content = body
    if (typeof body === 'string') type = 'text/html; charset=utf-8'
    else if (body === undefined || body === null) content = ''
    else if (Buffer.isBuffer(body) || body instanceof Uint8Array) type = 'application/octet-stream'
    else if (body instanceof Readable || body[Symbol.asyncIterator]) return this.#stream(call, status, headers, body)
    else {
      type = 'application/json; charset=utf-8'
      content = JSON.stringify(body)
    }
    if (call.incoming.method === 'HEAD') response.setHeader('Content-Length', Buffer.byteLength(content))
    this.#head(call, status, headers, type)
    response.end(content)
    if (response.writableLength > 0) this.#limitWaiting(response)
  }

  #stream(call, status, headers, body) {
    this.#head(call, status, headers, 'application/octet-stream')
    call.response.flushHeaders()
    const { promise, resolve } = Promise.withResolvers()
    this.#limitWaiting(call.response)
    pipeline(Readable.from(body), call.response, (error) => {
      if (error && error.code !== 'ERR_STREAM_PREMATURE_CLOSE') console.error(error)
      resolve()
    })
    return promise
  }

  /** Cuts a client off that leaves an answer unread for write_timeout. */
  #limitWaiting(response) {
    const { socket } = response
    if (!socket) return
    const check = setInterval(() => {
      if (socket.writableLength > 0 && socket.bytesWritten === last) socket.destroy()
      last = socket.bytesWritten
    }, this.options.writeTimeout)
    let last = -1
    response.on('close', () => clearInterval(check))
  }

  #head(call, status, headers, type) {
    const { response } = call
    const code = Number(status)
    if (!(code >= 200 && code <= 599)) throw new RangeError(`the status ${status} is not between 200 and 599`)
    for (const [name, value] of Object.entries(headers)) {
      if (!OURS.has(name.toLowerCase()) && value !== undefined) response.setHeader(name, value)
    }
    if (type && !response.hasHeader('content-type')) response.setHeader('Content-Type', type)
    this.#finishHead(call, code)
  }

  #finishHead(call, status) {
    const { response } = call
    const seconds = Number(process.hrtime.bigint() - call.started) / 1e9
    response.setHeader('X-Duration-Seconds', seconds.toFixed(6))
    // Without its 100-continue a client may send the body or not: nobody knows where it ends.
    if (this.draining || call.expects) response.shouldKeepAlive = false
    response.statusCode = status
  }

  /** A text of our own, on what is not the function's doing. */
  #refuse(call, status, text) {
    if (!call.response.headersSent) call.response.setHeader('X-OpenFaaS-Internal', 'of-watchdog')
    this.#send(call, status, text)
  }

  #send(call, status, text) {
    const { response, incoming } = call
    if (response.headersSent || response.destroyed) {
      response.destroy()
      return
    }
    for (const name of response.getHeaderNames()) {
      if (name !== 'x-openfaas-internal') response.removeHeader(name)
    }
    response.setHeader('Content-Type', 'text/plain; charset=utf-8')
    if (status === 429) response.setHeader('Retry-After', '1')
    this.#finishHead(call, status)
    response.end(`${text}\n`)
    if (!incoming.complete) incoming.resume() // so that the client gets to read this
  }

  // Health

  #ownPath(call) {
    const known = call.path === '/_/health' || call.path === '/_/ready'
    if (!known) return false
    if (!['GET', 'HEAD'].includes(call.incoming.method)) this.#refuse(call, 405, 'Only GET is answered here.')
    else if (this.draining) this.#refuse(call, 503, 'The function is ending.')
    else if (call.path === '/_/ready' && this.#full()) this.#tooMany(call)
    else if (call.path === '/_/ready' && this.options.readyPath) {
      call.path = this.options.readyPath
      return false
    } else if (!this.options.suppressLock && !fs.existsSync(this.lock)) {
      this.#refuse(call, 503, `The lock file ${this.lock} is gone.`)
    } else {
      call.response.setHeader('Content-Type', 'text/plain; charset=utf-8')
      this.#finishHead(call, 200)
      call.response.end('OK')
    }
    return true
  }

  #full() {
    return this.options.maxInflight > 0 && this.inFlight.size >= this.options.maxInflight
  }

  #tooMany(call) {
    this.#refuse(call, 429, `${this.options.maxInflight} requests are in flight already.`)
  }

  // The end

  /**
   * Until the requests in flight have their answers, new ones are still served, each as the last
   * one of its connection; then until no new connection came for a moment. Node cannot refuse new
   * connections while it takes those that wait, so one made in the last instant may be reset: who
   * sends requests here has to stop before SIGTERM, or when readiness is 503.
   */
  async #drain() {
    if (this.draining) return
    this.draining = true
    fs.rmSync(this.lock, { force: true })
    const { healthcheckInterval, writeTimeout } = this.options
    setTimeout(() => this.#giveUp(), healthcheckInterval + writeTimeout)
    await sleep(healthcheckInterval)
    for (;;) {
      while (this.inFlight.size > 0) await sleep(5)
      const before = this.connections
      await sleep(QUIET)
      if (this.inFlight.size === 0 && this.connections === before) break
    }
    this.server.close(() => leave(0))
    this.server.closeIdleConnections()
  }

  #giveUp() {
    log(`ending with ${this.inFlight.size} unfinished: write_timeout=${this.options.writeTimeout / 1000}s`)
    leave(0)
  }

  /** An error outside of any call of the handler: nobody knows what still works. */
  #crashed(error) {
    console.error(error)
    log('the function failed outside of a request and ends')
    for (const call of this.inFlight) this.#refuse(call, 500, 'The function crashed; its log says why.')
    fs.rmSync(this.lock, { force: true })
    setTimeout(() => leave(1), 20) // time for these answers to go out
  }
}

function leave(status) {
  process.exit(status)
}

function log(text) {
  console.error(`slipway: ${text}`)
}

module.exports = { Watchdog }
