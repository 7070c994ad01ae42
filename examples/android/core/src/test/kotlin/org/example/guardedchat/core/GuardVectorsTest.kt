package org.example.guardedchat.core

import org.example.guardedchat.core.guard.Category
import org.example.guardedchat.core.guard.HAZARDS
import org.example.guardedchat.core.guard.VERDICT_TOKENS
import org.example.guardedchat.core.guard.Verdict
import org.example.guardedchat.core.guard.VerdictKind
import org.example.guardedchat.core.guard.guardPrompt
import org.example.guardedchat.core.guard.parseVerdict
import org.junit.Assert.assertEquals
import org.junit.Test

class GuardVectorsTest {
    private val vectors = Vectors("guard")

    @Test
    fun `prompts are what Llama Guard was trained on`() =
        vectors.compare("prompts", { it.get<String>("prompt") }) { guardPrompt(it["turns"]) }

    @Test
    fun `answers of every kind become verdicts`() =
        vectors.compare("verdicts", ::verdict) { parseVerdict(it["answer"]) }

    @Test
    fun `hazards have the names that other apps show`() {
        assertEquals(vectors["hazards"], HAZARDS)
        assertEquals(vectors["verdict_tokens"], VERDICT_TOKENS.toLong())
    }

    private fun verdict(case: Case): Verdict {
        val categories = case.get<List<Map<String, String>>>("categories")
        return Verdict(
            VerdictKind.valueOf(case.get<String>("kind").uppercase()),
            categories.map { Category(it.getValue("code"), it.getValue("name")) },
        )
    }
}
