package org.example.guardedchat.core

import org.example.guardedchat.core.chat.TokenBudget
import org.example.guardedchat.core.chat.TokenPlan
import org.example.guardedchat.core.chat.TooLong
import org.example.guardedchat.core.chat.tokensAtMost
import org.junit.Test

class BudgetVectorsTest {
    private val vectors = Vectors("budgets")

    @Test
    fun `old exchanges make room for the answer`() =
        vectors.compare("plans", ::expected) {
            val budget = TokenBudget(it.int("context_length"), it.int("answer_tokens"))
            try {
                budget.plan(it.int("frame"), it.ints("turns"))
            } catch (error: TooLong) {
                error.message
            }
        }

    @Test
    fun `a text has no more tokens than bytes`() =
        vectors.compare("tokens_at_most", { it.int("tokens") }) { tokensAtMost(it["text"]) }

    private fun expected(case: Case): Any =
        case.get<String?>("message") ?: TokenPlan(case.int("dropped"), case.int("max_new_tokens"))
}
