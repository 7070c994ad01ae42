package org.example.guardedchat.core.bundle

private typealias Check = (Any?) -> Boolean

private val text: Check = { it is String }
private val integer: Check = { it is Long }
private val flag: Check = { it is Boolean }
private val list: Check = { it is List<*> }
private val obj: Check = { it is Map<*, *> }
private val textsByName: Check = { it is Map<*, *> && it.values.all(text) }

private fun orNull(check: Check): Check = { it == null || check(it) }

/** Field -> what its value must be. */
private val FIELDS: Map<String, Check> =
    mapOf(
        "schema" to integer,
        "name" to text,
        "target" to text,
        "quant" to text,
        "artifact" to list,
        "files" to list,
        "runtime" to obj,
        "requires" to obj,
        "context_length" to integer,
        "vocab_size" to integer,
        "expected_ram_bytes" to integer,
        "bos_id" to orNull(integer),
        "stop_ids" to list,
        "stop_tokens" to list,
        "chat_template" to orNull(text),
        "prompt_format" to orNull(obj),
        "license" to text,
        "notice" to text,
        "golden" to list,
    )

/** Field -> the fields of its object. */
private val NESTED: Map<String, Map<String, Check>> =
    mapOf(
        "runtime" to mapOf("versions" to textsByName, "packages" to textsByName),
        "prompt_format" to
            mapOf(
                "begin" to text,
                "begin_system" to text,
                "system_user" to text,
                "user_assistant" to text,
                "assistant_user" to text,
                "user_end" to text,
                "trims" to flag,
                "date_format" to orNull(text),
            ),
    )

/** List -> what its entries must be. */
private val ENTRIES: Map<String, Check> =
    mapOf(
        "artifact" to text,
        "files" to ::isFile,
        "stop_ids" to integer,
        "stop_tokens" to text,
        "golden" to ::isGolden,
    )

private val SHA256 = Regex("[0-9a-f]{64}")

private fun isFile(entry: Any?): Boolean {
    if (entry !is Map<*, *>) return false
    val (path, sha256) = listOf(entry["path"], entry["sha256"])
    return path is String && staysInside(path) && integer(entry["bytes"]) && sha256 is String && SHA256.matches(sha256)
}

/** Whether a path leads to something below the folder that it is read from. */
internal fun staysInside(path: String): Boolean = path != "" && !path.startsWith("/") && ".." !in path.split("/")

private fun isGolden(entry: Any?): Boolean =
    entry is Map<*, *> && text(entry["prompt"]) && isIds(entry["prompt_ids"]) && isIds(entry["answer_ids"])

private fun isIds(value: Any?): Boolean = value is List<*> && value.all(integer)

/** What is wrong with a document, the most general first; lazily, because each check relies on those before it. */
internal fun complaints(document: Map<String, Any?>): Sequence<String> =
    sequence {
        yieldAll(complaintsOf(document, FIELDS))
        for ((name, fields) in NESTED) {
            val found = document[name] as Map<*, *>? ?: continue
            yieldAll(complaintsOf(found, fields, "$name."))
        }
        for ((name, check) in ENTRIES) {
            if (!(document[name] as List<*>).all(check)) yield("$name has an entry that is none")
        }
        val artifact = document["artifact"] as List<*>
        val paths = (document["files"] as List<*>).map { (it as Map<*, *>)["path"] }
        if (artifact.isEmpty() || !paths.containsAll(artifact)) yield("artifact is not among the files")
    }

private fun complaintsOf(
    found: Map<*, *>,
    fields: Map<String, Check>,
    prefix: String = "",
): Sequence<String> =
    fields.asSequence().mapNotNull { (name, check) ->
        when {
            name !in found -> "$prefix$name is missing"
            !check(found[name]) -> "$prefix$name has another type"
            else -> null
        }
    }
