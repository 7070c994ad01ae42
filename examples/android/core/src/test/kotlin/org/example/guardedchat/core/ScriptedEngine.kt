package org.example.guardedchat.core

import org.example.guardedchat.core.chat.TextEngine
import org.example.guardedchat.core.chat.TokenCounts

/** Says what a test wants it to say, token by token, and remembers what it was asked. */
class ScriptedEngine(
    private val counts: TokenCounts? = null,
    private val say: (prompt: String) -> List<String>,
) : TextEngine {
    val prompts = ArrayList<String>()

    override fun generate(
        prompt: String,
        onPiece: (String) -> Boolean,
    ): TokenCounts? {
        prompts += prompt
        say(prompt).takeWhile(onPiece)
        return counts
    }

    override fun close() = Unit
}
