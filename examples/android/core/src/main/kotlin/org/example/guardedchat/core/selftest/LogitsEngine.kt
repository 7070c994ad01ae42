package org.example.guardedchat.core.selftest

import java.io.Closeable

/** A model that gives the logits of the last of some tokens. */
fun interface LogitsEngine : Closeable {
    /**
     * @param ids Tokens that follow those that were given before.
     * @param position How many these are.
     */
    fun logits(
        ids: List<Int>,
        position: Int,
    ): FloatArray

    override fun close() = Unit
}

/**
 * The likeliest continuation of a prompt.
 *
 * @return At most [count] tokens, without the one that ended them.
 */
fun LogitsEngine.greedy(
    promptIds: List<Int>,
    count: Int,
    stopIds: Set<Int>,
): List<Int> {
    val found = ArrayList<Int>()
    var next = promptIds
    while (found.size < count) {
        val token = likeliest(logits(next, position = if (found.isEmpty()) 0 else promptIds.size + found.size - 1))
        if (token in stopIds) break
        found += token
        next = listOf(token)
    }
    return found
}

/** Of equals the first, as numpy's `argmax` and llama.cpp's greedy sampler have it. */
private fun likeliest(logits: FloatArray): Int = logits.indices.maxBy { logits[it] }
