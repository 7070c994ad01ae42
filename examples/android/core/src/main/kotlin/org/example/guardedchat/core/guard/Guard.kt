package org.example.guardedchat.core.guard

import org.example.guardedchat.core.chat.AnswerStream
import org.example.guardedchat.core.chat.TextEngine
import org.example.guardedchat.core.chat.TokenBudget
import org.example.guardedchat.core.chat.tokensAtMost

/** A verdict fits in these many tokens, with several codes. */
const val VERDICT_TOKENS = 32

/**
 * A Llama Guard model that judges the last message of a conversation.
 *
 * @param contextLength Of the guard model, in tokens.
 * @param stopTokens Of the guard model.
 */
class Guard(
    private val engine: TextEngine,
    contextLength: Int,
    private val stopTokens: Set<String>,
) {
    private val budget = TokenBudget(contextLength, VERDICT_TOKENS)

    /**
     * @param turns Messages of user and assistant in turn, the user's first; of a long conversation the guard sees its end.
     * @throws org.example.guardedchat.core.chat.TooLong if the message does not fit into the guard.
     */
    fun judge(turns: List<String>): Verdict {
        val tokens = turns.map { tokensAtMost(it) + tokensAtMost(FRAME_OF_TURN) }
        val plan = budget.plan(FRAME, tokens)
        val stream = AnswerStream(stopTokens, VERDICT_TOKENS)
        engine.generate(guardPrompt(turns.drop(plan.dropped)), stream::accept)
        return parseVerdict(stream.finish().text)
    }

    private companion object {
        const val FRAME_OF_TURN = "Agent: \n\n"
        val FRAME = tokensAtMost(guardPrompt(listOf("", "")))
    }
}
