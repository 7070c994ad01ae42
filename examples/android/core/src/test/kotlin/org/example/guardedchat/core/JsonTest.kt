package org.example.guardedchat.core

import org.example.guardedchat.core.json.Json
import org.example.guardedchat.core.json.JsonException
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Test

class JsonTest {
    @Test
    fun `values of every kind`() {
        val values = listOf(1L, -2.5, 1000.0, true, false, null, "")
        assertEquals(values, Json.parse(""" [1, -2.5, 1e3, true, false, null, ""] """))
        val nested = mapOf("a" to mapOf("b" to emptyMap<String, Any?>()), "c" to listOf(emptyList<Any?>()))
        assertEquals(nested, Json.parse("""{"a": {"b": {}}, "c": [[]]}"""))
    }

    @Test
    fun `escapes and letters of other scripts`() {
        assertEquals("\" \\ / \b \u000c \n \r \t", Json.parse(""" "\" \\ \/ \b \f \n \r \t" """))
        assertEquals("é 🙂 東", Json.parse(""" "\u00e9 \ud83d\uDE42 東" """))
    }

    @Test
    fun `an integer that does not fit is a number all the same`() {
        assertEquals(Long.MAX_VALUE, Json.parse("9223372036854775807"))
        assertEquals(9223372036854775808.0, Json.parse("9223372036854775808"))
    }

    @Test
    fun `the last of two fields of the same name counts`() {
        assertEquals(mapOf("a" to 2L), Json.parse("""{"a": 1, "a": 2}"""))
    }

    @Test
    fun `what is no JSON`() {
        val cutOff = listOf("", " ", "{", "[1", "\"", "\"\\", "tru", "-", "1.", "1e")
        val wrong = listOf("[1 2]", "[,]", "[1,]", "{\"a\"}", "{1: 2}", "nulll", ".5", "+1", "01", "NaN", "\u00a01")
        for (text in cutOff + wrong) assertThrows(text, JsonException::class.java) { Json.parse(text) }
    }

    @Test
    fun `what is nested too deep is refused before the stack ends`() {
        assertThrows(JsonException::class.java) { Json.parse("[".repeat(1_000_000)) }
    }
}
