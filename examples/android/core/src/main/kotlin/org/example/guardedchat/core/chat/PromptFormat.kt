package org.example.guardedchat.core.chat

import java.time.LocalDateTime

private const val DATE = "{{date}}"

/**
 * A chat template as the text between messages (docs/bundle.md, `prompt_format`).
 *
 * @property begin Before the first message of the user, where there is no system message.
 * @property beginSystem Before the system message; [systemUser] stands between it and the first message of the user.
 * @property userAssistant Between a message of the user and the answer; [assistantUser] the other way round.
 * @property userEnd Behind the last message of the user; the model continues from here.
 * @property trims Whether each message loses the white space at its ends.
 * @property dateFormat `strftime` format of what stands for `{{date}}` in these texts; `null` if they have no date.
 */
data class PromptFormat(
    val begin: String,
    val beginSystem: String,
    val systemUser: String,
    val userAssistant: String,
    val assistantUser: String,
    val userEnd: String,
    val trims: Boolean,
    val dateFormat: String?,
) {
    /**
     * The prompt of a conversation.
     *
     * @param turns Messages of user and assistant in turn, the user's first and last.
     */
    fun render(
        system: String?,
        turns: List<String>,
        now: LocalDateTime,
    ): String {
        val messages = (listOfNotNull(system) + turns).map { if (trims) strip(it) else it }
        val heads = if (system == null) listOf(begin) else listOf(beginSystem, systemUser)
        val joints = List(turns.size - 1) { if (it % 2 == 0) userAssistant else assistantUser }
        // A message that reads {{date}} stays what it is.
        val texts = (heads + joints + userEnd).map { dated(it, now) }
        return texts.first() + messages.zip(texts.drop(1)) { message, text -> message + text }.joinToString("")
    }

    private fun dated(
        text: String,
        now: LocalDateTime,
    ): String = if (dateFormat == null) text else text.replace(DATE, strftime(dateFormat, now))
}
