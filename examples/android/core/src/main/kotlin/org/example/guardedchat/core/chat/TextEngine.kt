package org.example.guardedchat.core.chat

import org.example.guardedchat.core.json.Json
import java.io.Closeable

/** A model that continues text. One call at a time, from any thread. */
interface TextEngine : Closeable {
    /**
     * Continues a prompt until the model ends its answer or [onPiece] returns false.
     *
     * @param prompt Special tokens by their names.
     * @param onPiece Takes the text of each token, that of the token that ends the answer included.
     * @return What the runtime counted, if it did.
     */
    fun generate(
        prompt: String,
        onPiece: (String) -> Boolean,
    ): TokenCounts?
}

/** Tokens that a runtime has read and written. */
data class TokenCounts(
    val prompt: Int,
    val generated: Int,
) {
    companion object {
        /**
         * From the JSON text that ExecuTorch's `LlmCallback.onStats` is given (`extension/llm/runner/stats.h`).
         *
         * @return `null` if it has no counts.
         */
        fun parse(stats: String): TokenCounts? {
            val found = Json.parse(stats) as? Map<*, *>
            val prompt = found?.get("prompt_tokens") as? Long ?: return null
            val generated = found["generated_tokens"] as? Long ?: return null
            return TokenCounts(prompt.toInt(), generated.toInt())
        }
    }
}
