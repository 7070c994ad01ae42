package org.example.guardedchat.core.chat

/** A conversation of which not even the last message fits into the model. */
class TooLong(
    message: String,
) : Exception(message)

/**
 * How much of a conversation goes into a prompt, so that the answer has room too.
 *
 * @property contextLength Tokens of prompt and answer together.
 * @property answerTokens Tokens that must remain for the answer.
 */
class TokenBudget(
    private val contextLength: Int,
    private val answerTokens: Int,
) {
    /**
     * Leaves out whole exchanges, the oldest first, but never the last message, nor the question to a last answer.
     *
     * @param frame Tokens around the messages.
     * @param turns Tokens of each message of user and assistant in turn.
     * @throws TooLong if what must stay does not fit.
     */
    fun plan(
        frame: Int,
        turns: List<Int>,
    ): TokenPlan {
        var dropped = 0
        var needed = frame + turns.sum()
        while (turns.size - dropped > 2 && needed + answerTokens > contextLength) {
            needed -= turns[dropped] + turns[dropped + 1]
            dropped += 2
        }
        if (needed + answerTokens > contextLength) {
            throw TooLong(
                "the message is too long: $needed of $contextLength tokens, and $answerTokens are kept for the answer",
            )
        }
        return TokenPlan(dropped, contextLength - needed)
    }
}

/**
 * @property dropped Messages to leave out at the beginning.
 * @property maxNewTokens Tokens that remain for the answer.
 */
data class TokenPlan(
    val dropped: Int,
    val maxNewTokens: Int,
)

/**
 * Tokens of a text at most: its bytes, because no tokenizer that falls back to bytes makes more of it.
 *
 * The app has no tokenizer of its own, only the runner has one. What the runner counted replaces this bound as soon as
 * it has read the text.
 */
fun tokensAtMost(text: String): Int = text.encodeToByteArray().size
