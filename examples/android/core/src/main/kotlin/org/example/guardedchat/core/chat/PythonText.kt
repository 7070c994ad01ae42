package org.example.guardedchat.core.chat

import java.time.LocalDateTime
import java.time.format.DateTimeFormatter
import java.util.Locale

/*
 * Chat templates run in Python when models are trained: what `str.strip` takes for white space and how `strftime`
 * spells a date are part of their text.
 */

private val WHITE_SPACE: Set<Char> =
    "\t\n\u000b\u000c\r\u001c\u001d\u001e\u001f \u0085\u00a0\u1680\u2028\u2029\u202f\u205f\u3000".toSet() +
        ('\u2000'..'\u200a')

/** `str.strip()`. */
internal fun strip(text: String): String = text.trim { it in WHITE_SPACE }

/** `strftime` directive -> pattern of [DateTimeFormatter]; the names are English, as in Python's default locale. */
private val DIRECTIVES =
    mapOf(
        'a' to "EEE",
        'A' to "EEEE",
        'b' to "MMM",
        'B' to "MMMM",
        'd' to "dd",
        'H' to "HH",
        'I' to "hh",
        'j' to "DDD",
        'm' to "MM",
        'M' to "mm",
        'p' to "a",
        'S' to "ss",
        'y' to "yy",
        'Y' to "yyyy",
    )

private val DIRECTIVE = Regex("%(.)")

/** `datetime.strftime(format)`; a directive that is not known here stays as it is. */
internal fun strftime(
    format: String,
    time: LocalDateTime,
): String =
    DIRECTIVE.replace(format) { match ->
        val pattern = DIRECTIVES[match.groupValues[1].single()]
        when {
            match.value == "%%" -> "%"
            pattern == null -> match.value
            else -> DateTimeFormatter.ofPattern(pattern, Locale.ENGLISH).format(time)
        }
    }
