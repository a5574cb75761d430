'use strict'

// Counts the lines, words and most frequent words of the text that it is sent.
//
//   curl --data-binary @README.md -H 'Content-Type: text/plain' \
//     http://127.0.0.1:8080/function/words.demo?top=3

module.exports = async (event, context) => {
  const text = typeof event.body === 'string' ? event.body : ''
  const words = text.toLowerCase().match(/[\p{L}\p{N}]+(?:['’][\p{L}]+)*/gu) ?? []
  const counts = new Map()
  for (const word of words) counts.set(word, (counts.get(word) ?? 0) + 1)
  const top = [...counts]
    .sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1))
    .slice(0, Number(event.query.top) || 5)
  return {
    lines: text.split('\n').length - (text.endsWith('\n') || text === '' ? 1 : 0),
    words: words.length,
    different: counts.size,
    top: Object.fromEntries(top),
  }
}
