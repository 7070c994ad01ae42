package org.example.guardedchat.core.guard

import org.example.guardedchat.core.chat.strip

/**
 * What asks Llama Guard 3 1B about the last message of a conversation. Source: `chat_template` in the
 * `tokenizer_config.json` of meta-llama/Llama-Guard-3-1B.
 *
 * @param turns Messages of user and assistant in turn, the user's first.
 */
fun guardPrompt(turns: List<String>): String {
    val roles = turns.indices.map { if (it % 2 == 0) "User" else "Agent" }
    val categories = PROMPTED_HAZARDS.entries.joinToString("") { (code, name) -> "$code: $name.\n" }
    val conversation = roles.zip(turns) { role, turn -> "$role: ${strip(turn)}\n\n" }.joinToString("")
    return "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n" +
        "Task: Check if there is unsafe content in '${roles.last()}' messages in conversations according our safety " +
        "policy with the below categories.\n\n" +
        "<BEGIN UNSAFE CONTENT CATEGORIES>\n$categories<END UNSAFE CONTENT CATEGORIES>\n\n" +
        "<BEGIN CONVERSATION>\n\n$conversation<END CONVERSATION>\n\n" +
        "Provide your safety assessment for ONLY THE LAST ${roles.last()} message in the above conversation:\n" +
        " - First line must read 'safe' or 'unsafe'.\n" +
        " - If unsafe, a second line must include a comma-separated list of violated categories. " +
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
}
