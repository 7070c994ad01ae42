package org.example.guardedchat.core.bundle

import org.example.guardedchat.core.chat.PromptFormat

/**
 * What `bundle.json` says of a model, as far as this app uses it (docs/bundle.md has every field).
 *
 * @property artifact Paths of the files that the runtime loads, the program first; some of [files].
 * @property runtimeVersions Runtime -> version in which the artifact was proved.
 * @property contextLength Tokens of prompt and answer together.
 * @property stopIds Every token that ends an answer; [stopTokens] are their texts.
 * @property promptFormat `null` if the model's chat template is more than text between messages, or there is none.
 * @property notice What the licence asks an app to show; may be empty.
 */
data class BundleDocument(
    val name: String,
    val quant: String,
    val artifact: List<String>,
    val files: List<BundledFile>,
    val runtimeVersions: Map<String, String>,
    val contextLength: Int,
    val stopIds: Set<Int>,
    val stopTokens: Set<String>,
    val promptFormat: PromptFormat?,
    val notice: String,
    val golden: List<GoldenAnswer>,
)

/** A file of a bundle; [sha256] in lower case. */
data class BundledFile(
    val path: String,
    val bytes: Long,
    val sha256: String,
)

/** What the artifact said where it was exported, when the likeliest token was always taken. */
data class GoldenAnswer(
    val promptIds: List<Int>,
    val answerIds: List<Int>,
)
