package org.example.guardedchat.core.guard

/** What a guard says of a message; [UNCLEAR] if its answer is no verdict. */
enum class VerdictKind { SAFE, UNSAFE, UNCLEAR }

/** A hazard that a verdict names. */
data class Category(
    val code: String,
    val name: String,
)

/**
 * @property categories Of an unsafe message, in the order of their numbers; may be empty.
 */
data class Verdict(
    val kind: VerdictKind,
    val categories: List<Category> = emptyList(),
)

private const val UNKNOWN = "unknown category"

/**
 * The verdict in any answer whatever.
 *
 * Doubt goes against the message: only a bare "safe" is safe, and whatever begins with "unsafe" is unsafe. Letters,
 * digits and white space are ASCII's. No regexes, because Android's and the JVM's differ in what they take for a letter.
 */
fun parseVerdict(answer: String): Verdict {
    val text = answer.trim { it in " \t\n\u000b\u000c\r" }
    val words = words(text)
    return when {
        lowercase(text) == "safe" || lowercase(text) == "safe." -> Verdict(VerdictKind.SAFE)
        words.firstOrNull() == "unsafe" && !isSeparator(text[0]) -> Verdict(VerdictKind.UNSAFE, categories(words))
        else -> Verdict(VerdictKind.UNCLEAR)
    }
}

private fun categories(words: List<String>): List<Category> =
    words
        .filter { word -> word.length in 2..3 && word[0] == 's' && word.drop(1).all { it in '0'..'9' } }
        .map { it.drop(1).toInt() }
        .toSortedSet()
        .map { Category("S$it", HAZARDS["S$it"] ?: UNKNOWN) }

/** The longest runs of letters, digits and underscores, in lower case. */
private fun words(text: String): List<String> =
    lowercase(text)
        .map { if (isSeparator(it)) ' ' else it }
        .joinToString("")
        .split(' ')
        .filter { it != "" }

private fun isSeparator(char: Char): Boolean =
    !(char in 'a'..'z' || char in 'A'..'Z' || char in '0'..'9' || char == '_')

/** Kotlin's own would make an ASCII letter of letters that are none. */
private fun lowercase(text: String): String = text.map { if (it in 'A'..'Z') it + 32 else it }.joinToString("")
