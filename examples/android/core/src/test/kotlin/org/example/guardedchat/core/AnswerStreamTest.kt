package org.example.guardedchat.core

import org.example.guardedchat.core.chat.AnswerStream
import org.example.guardedchat.core.chat.End
import org.example.guardedchat.core.chat.TokenCounts
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test

class AnswerStreamTest {
    private var stopped = false
    private var clock = 0L
    private val stream = AnswerStream(setOf("<|eot_id|>", "</s>"), maxTokens = 3, { stopped }, { clock })

    @Test
    fun `pieces become text until the model ends its answer`() {
        assertTrue(stream.accept("Hel"))
        assertTrue(stream.accept("lo"))
        assertNull(stream.answer().end)
        assertFalse(stream.accept("<|eot_id|>"))
        assertEquals("Hello", stream.answer().text)
        assertEquals(End.FINISHED, stream.answer().end)
    }

    @Test
    fun `the cap holds although the runner knows none`() {
        assertEquals(listOf(true, true, false), listOf("a", "b", "c").map(stream::accept))
        assertEquals("abc", stream.answer().text)
        assertEquals(End.FULL, stream.answer().end)
    }

    @Test
    fun `Stop ends it at the next token`() {
        stream.accept("a")
        stopped = true
        assertFalse(stream.accept("b"))
        assertEquals("a", stream.answer().text)
        assertEquals(End.STOPPED, stream.answer().end)
    }

    @Test
    fun `it says no again to a runner that does not listen`() {
        stream.accept("</s>")
        assertFalse(stream.accept("more"))
        assertFalse(stream.accept("and more"))
        assertEquals("", stream.answer().text)
        assertEquals(End.FINISHED, stream.answer().end)
    }

    @Test
    fun `a runner that returns by itself had no room`() {
        stream.accept("a")
        assertEquals(End.FULL, stream.finish().end)
    }

    @Test
    fun `speed counts from the first token on`() {
        clock = 5_000_000_000
        stream.accept("a")
        assertNull(stream.answer().tokensPerSecond)
        clock += 100_000_000
        stream.accept("b")
        clock += 300_000_000
        stream.accept("c")
        assertEquals(5.0, stream.answer().tokensPerSecond!!, 1e-9)
    }

    @Test
    fun `the runner's counts`() {
        val stats = """{"prompt_tokens":12,"generated_tokens":34,"first_token_ms":1}"""
        assertEquals(TokenCounts(12, 34), TokenCounts.parse(stats))
        assertNull(TokenCounts.parse("{}"))
    }
}
