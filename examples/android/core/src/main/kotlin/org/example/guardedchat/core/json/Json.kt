package org.example.guardedchat.core.json

/** A text that is not JSON. */
class JsonException(
    message: String,
) : Exception(message)

/**
 * JSON (RFC 8259) as plain values: maps, lists, strings, booleans and null; numbers are [Long] if they are written as
 * integers that fit, otherwise [Double].
 *
 * Android's `org.json` would do, but takes much that is no JSON, and this module is to run without Android.
 */
object Json {
    /** @throws JsonException if it is no JSON, or more than one document. */
    fun parse(text: String): Any? = JsonParser(text).document()
}

private const val MAX_DEPTH = 500

private const val WHITE_SPACE = " \t\n\r"

private val NUMBER = Regex("-?(?:0|[1-9][0-9]*)(\\.[0-9]+)?([eE][-+]?[0-9]+)?")

private val ESCAPES =
    mapOf(
        '"' to '"',
        '\\' to '\\',
        '/' to '/',
        'b' to '\b',
        'f' to '\u000c',
        'n' to '\n',
        'r' to '\r',
        't' to '\t',
    )

private class JsonParser(
    private val text: String,
) {
    private var position = 0
    private var depth = 0

    fun document(): Any? {
        val found = value()
        skipWhiteSpace()
        if (position < text.length) fail("one document")
        return found
    }

    private fun value(): Any? {
        skipWhiteSpace()
        return when (peek()) {
            '{' -> nested(::members)
            '[' -> nested(::elements)
            '"' -> string()
            't' -> word("true", true)
            'f' -> word("false", false)
            'n' -> word("null", null)
            else -> number()
        }
    }

    private fun <T> nested(read: () -> T): T {
        if (++depth > MAX_DEPTH) fail("at most $MAX_DEPTH levels")
        position++
        return read().also { depth-- }
    }

    private fun members(): Map<String, Any?> {
        val found = LinkedHashMap<String, Any?>()
        separated('}') {
            skipWhiteSpace()
            val name = string()
            skipWhiteSpace()
            expect(':')
            found[name] = value()
        }
        return found
    }

    private fun elements(): List<Any?> {
        val found = ArrayList<Any?>()
        separated(']') { found += value() }
        return found
    }

    private fun separated(
        end: Char,
        read: () -> Unit,
    ) {
        skipWhiteSpace()
        if (peek() == end) {
            position++
            return
        }
        while (true) {
            read()
            skipWhiteSpace()
            if (peek() == end) break
            expect(',')
        }
        position++
    }

    private fun string(): String {
        expect('"')
        val found = StringBuilder()
        while (true) {
            when (val char = next()) {
                '"' -> return found.toString()
                '\\' -> found.append(escape())
                in '\u0000'..'\u001f' -> fail("an escape for a control character")
                else -> found.append(char)
            }
        }
    }

    private fun escape(): Char {
        val char = next()
        if (char != 'u') return ESCAPES[char] ?: fail("an escape")
        val digits = String(CharArray(4) { next() })
        if (!digits.all { it in '0'..'9' || it in 'a'..'f' || it in 'A'..'F' }) fail("four hexadecimal digits")
        return digits.toInt(16).toChar()
    }

    private fun number(): Number {
        val match = NUMBER.matchAt(text, position) ?: fail("a value")
        position = match.range.last + 1
        val isInteger = match.groupValues.drop(1).all(String::isEmpty)
        return match.value.toLongOrNull().takeIf { isInteger } ?: match.value.toDouble()
    }

    private fun <T> word(
        word: String,
        meaning: T,
    ): T {
        if (!text.startsWith(word, position)) fail("a value")
        position += word.length
        return meaning
    }

    private fun skipWhiteSpace() {
        while (position < text.length && text[position] in WHITE_SPACE) position++
    }

    private fun peek(): Char = text.getOrNull(position) ?: fail("more text")

    private fun next(): Char = peek().also { position++ }

    private fun expect(char: Char) {
        if (next() != char) fail("'$char'")
    }

    private fun fail(expected: String): Nothing = throw JsonException("expected $expected at $position")
}
