package org.example.guardedchat.core.bundle

import org.example.guardedchat.core.chat.PromptFormat
import org.example.guardedchat.core.json.Json
import org.example.guardedchat.core.json.JsonException

private const val SCHEMA = 1L

/**
 * `bundle.json` from its text.
 *
 * @throws BundleProblem with the first thing that is wrong.
 */
fun parseDocument(text: String): BundleDocument {
    val document = load(text)
    complaints(document).firstOrNull()?.let { throw BundleProblem.invalid(it) }
    if ((document["golden"] as List<*>).isEmpty()) throw BundleProblem.goldenMissing()
    return Fields(document).document()
}

private fun load(text: String): Map<String, Any?> {
    val found =
        try {
            Json.parse(text)
        } catch (_: JsonException) {
            throw BundleProblem.invalid("it is not JSON")
        }
    if (found !is Map<*, *>) throw BundleProblem.invalid("it is not an object")
    val schema = found["schema"]
    if (schema is Long && schema != SCHEMA) throw BundleProblem.schema(schema, SCHEMA)
    @Suppress("UNCHECKED_CAST") // The names in a JSON object are texts.
    return found as Map<String, Any?>
}

/** Fields of an object that [complaints] found nothing wrong with. */
@Suppress("UNCHECKED_CAST")
private class Fields(
    private val values: Map<String, Any?>,
) {
    private fun text(name: String) = values[name] as String

    private fun texts(name: String) = values[name] as List<String>

    private fun integer(name: String) = values[name] as Long

    private fun ids(name: String) = (values[name] as List<Long>).map(Long::toInt)

    private fun <T> entries(
        name: String,
        make: Fields.() -> T,
    ) = (values[name] as List<Map<String, Any?>>).map { Fields(it).make() }

    fun document() =
        BundleDocument(
            name = text("name"),
            quant = text("quant"),
            artifact = texts("artifact"),
            files = entries("files") { BundledFile(text("path"), integer("bytes"), text("sha256")) },
            runtimeVersions = (values["runtime"] as Map<*, *>)["versions"] as Map<String, String>,
            contextLength = integer("context_length").coerceAtMost(Int.MAX_VALUE.toLong()).toInt(),
            stopIds = ids("stop_ids").toSet(),
            stopTokens = texts("stop_tokens").toSet(),
            promptFormat = (values["prompt_format"] as Map<String, Any?>?)?.let(::promptFormatOf),
            notice = text("notice"),
            golden = entries("golden") { GoldenAnswer(ids("prompt_ids"), ids("answer_ids")) },
        )
}

/** `prompt_format` of a document, from its fields. */
internal fun promptFormatOf(fields: Map<String, Any?>): PromptFormat =
    PromptFormat(
        begin = fields["begin"] as String,
        beginSystem = fields["begin_system"] as String,
        systemUser = fields["system_user"] as String,
        userAssistant = fields["user_assistant"] as String,
        assistantUser = fields["assistant_user"] as String,
        userEnd = fields["user_end"] as String,
        trims = fields["trims"] as Boolean,
        dateFormat = fields["date_format"] as String?,
    )
