package org.example.guardedchat.core

import org.example.guardedchat.core.json.Json
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import java.io.File

/** Cases that the exporter has made (`tests/vectors/` in its repository), on which all languages must agree. */
class Vectors(
    name: String,
) {
    private val document = Json.parse(File(System.getProperty("vectors"), "$name.json").readText()) as Map<*, *>

    /** A value beside the cases. */
    operator fun get(name: String): Any? = document[name]

    /** Compares what [find] makes of each case with what is [expected] of it, and names those that differ. */
    fun <T> compare(
        kind: String,
        expected: (Case) -> T,
        find: (Case) -> T,
    ) {
        val cases = (document[kind] as List<*>).map { Case(it as Map<*, *>) }
        assertTrue("there are cases", cases.isNotEmpty())
        assertEquals(cases.map { it.about to expected(it) }, cases.map { it.about to find(it) })
    }
}

/** One case. */
class Case(
    private val fields: Map<*, *>,
) {
    val about: Any? = fields["about"] ?: fields

    @Suppress("UNCHECKED_CAST") // A test that asks for another type than the case has fails, as it should.
    operator fun <T> get(name: String): T = fields[name] as T

    fun ints(name: String): List<Int> = get<List<Long>>(name).map(Long::toInt)

    fun int(name: String): Int = get<Long>(name).toInt()
}

/** The message of what a job throws, `null` if it throws nothing. */
inline fun <reified E : Exception> messageOf(job: () -> Unit): String? =
    try {
        job()
        null
    } catch (error: Exception) {
        if (error is E) error.message else throw error
    }
