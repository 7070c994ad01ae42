package org.example.guardedchat.core

import org.example.guardedchat.core.bundle.promptFormatOf
import org.example.guardedchat.core.chat.strftime
import org.junit.Test
import java.time.LocalDateTime

@Suppress("UNCHECKED_CAST")
class PromptVectorsTest {
    private val vectors = Vectors("prompts")
    private val now = LocalDateTime.parse(vectors["now"] as String)
    private val formats = (vectors["formats"] as Map<String, Map<String, Any?>>).mapValues { promptFormatOf(it.value) }

    @Test
    fun `prompts are what the chat templates make`() =
        vectors.compare("prompts", { it.get<String>("prompt") }) {
            formats.getValue(it["format"]).render(it["system"], it["turns"], now)
        }

    @Test
    fun `dates are spelled as Python spells them`() =
        vectors.compare("dates", { it.get<String>("text") }) { strftime(it["format"], now) }
}
