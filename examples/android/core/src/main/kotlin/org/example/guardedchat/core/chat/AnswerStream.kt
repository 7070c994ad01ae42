package org.example.guardedchat.core.chat

/** Why an answer ended. */
enum class End {
    /** The model said so. */
    FINISHED,

    /** The user pressed Stop. */
    STOPPED,

    /** There was no room for more tokens. */
    FULL,
}

/**
 * An answer, or what there is of it so far.
 *
 * @property tokensPerSecond From the first token on; `null` before there are two.
 * @property end `null` while it grows.
 */
data class Answer(
    val text: String,
    val tokens: Int,
    val tokensPerSecond: Double?,
    val end: End?,
)

/**
 * Makes an answer of the pieces that a runner hands out.
 *
 * It decides when to end, because ExecuTorch's runner does not: `LlmModule.generate(prompt, config, callback)` never
 * forwards `maxNewTokens` to native code, an end token that comes first is passed over, and a `stop()` before the second
 * token is forgotten. So [accept] says no again for every piece that still comes.
 *
 * @param stopTokens Texts of the tokens that end an answer; the runner hands these out too.
 * @param isStopped Asked at every piece.
 * @param nanoTime A clock.
 */
class AnswerStream(
    private val stopTokens: Set<String>,
    private val maxTokens: Int,
    private val isStopped: () -> Boolean = { false },
    private val nanoTime: () -> Long = System::nanoTime,
) {
    private val text = StringBuilder()
    private var tokens = 0
    private var firstAt = 0L
    private var lastAt = 0L
    private var end: End? = null

    /** Takes a piece; whether the runner is to go on. */
    fun accept(piece: String): Boolean {
        if (end == null) end = endBefore(piece)
        if (end == null) {
            append(piece)
            if (tokens == maxTokens) end = End.FULL
        }
        return end == null
    }

    /** The answer so far. */
    fun answer(): Answer {
        val seconds = (lastAt - firstAt) / 1e9
        val speed = if (tokens > 1 && seconds > 0) (tokens - 1) / seconds else null
        return Answer(text.toString(), tokens, speed, end)
    }

    /** The answer, when the runner has returned: if nobody ended it here, its cache was full. */
    fun finish(): Answer {
        if (end == null) end = End.FULL
        return answer()
    }

    private fun endBefore(piece: String): End? =
        when {
            isStopped() -> End.STOPPED
            piece in stopTokens -> End.FINISHED
            else -> null
        }

    private fun append(piece: String) {
        lastAt = nanoTime()
        if (tokens == 0) firstAt = lastAt
        text.append(piece)
        tokens++
    }
}
