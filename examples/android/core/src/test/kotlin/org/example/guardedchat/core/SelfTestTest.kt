package org.example.guardedchat.core

import org.example.guardedchat.core.bundle.Bundle
import org.example.guardedchat.core.bundle.BundleProblem
import org.example.guardedchat.core.bundle.BundleSlot
import org.example.guardedchat.core.selftest.LogitsEngine
import org.example.guardedchat.core.selftest.SelfTest
import org.example.guardedchat.core.selftest.greedy
import org.junit.Assert.assertEquals
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.util.Base64

class SelfTestTest {
    @get:Rule
    val scratch = TemporaryFolder()

    private val runtimes = mapOf("executorch" to "1.4.0")
    private val passed = ArrayList<SelfTest.Step>()
    private lateinit var bundle: Bundle

    /** The vectors' golden answer: after 1 5 6 come 9 and 8. */
    private val right = successors(6 to 9, 9 to 8, 8 to 7)

    /** A model that knows of each token which one follows, and checks that it is told the right position. */
    private fun successors(vararg pairs: Pair<Int, Int>): LogitsEngine {
        var seen = 0
        return LogitsEngine { ids, position ->
            if (position == 0) seen = 0
            assertEquals(seen, position)
            seen += ids.size
            val next = pairs.toMap().getValue(ids.last())
            FloatArray(10) { if (it == next) 1f else 0f }
        }
    }

    @Before
    fun takeIn() {
        val archives = Vectors("bundles")["archives"] as List<*>
        val archive = Base64.getDecoder().decode((archives.first() as Map<*, *>)["base64"] as String)
        bundle = BundleSlot(scratch.root.resolve("chat"), runtimes).replace(archive.inputStream())
    }

    private fun problem(
        engine: LogitsEngine = right,
        runtimes: Map<String, String> = this.runtimes,
    ): String? = messageOf<BundleProblem> { SelfTest(runtimes) { engine }.run(bundle, passed::add) }

    @Test
    fun `a bundle that is whole passes`() {
        assertEquals(null, problem())
        assertEquals(SelfTest.Step.entries, passed)
    }

    @Test
    fun `a runtime that computes something else does not`() {
        assertEquals(
            "golden answer 1 differs: this runtime does not compute what was proved",
            problem(successors(6 to 9, 9 to 9)),
        )
        assertEquals(listOf(SelfTest.Step.FILES, SelfTest.Step.RUNTIME), passed)
    }

    @Test
    fun `nor one of another version`() {
        assertEquals("the bundle needs executorch 1.4.0, here is none", problem(runtimes = emptyMap()))
    }

    @Test
    fun `nor a file that has changed`() {
        bundle.program.writeText("Program")
        assertEquals("executorch/model.pte is not the file that was bundled", problem())
        bundle.program.delete()
        assertEquals("executorch/model.pte is missing from the bundle", problem())
        assertEquals(emptyList<SelfTest.Step>(), passed)
    }

    @Test
    fun `a greedy answer ends with a stop token or when it is long enough`() {
        assertEquals(listOf(9, 8), right.greedy(listOf(1, 5, 6), count = 5, stopIds = setOf(7)))
        assertEquals(listOf(9), right.greedy(listOf(1, 5, 6), count = 1, stopIds = emptySet()))
        assertEquals(emptyList<Int>(), right.greedy(listOf(6), count = 0, stopIds = emptySet()))
    }

    @Test
    fun `of two likeliest tokens it takes the first`() {
        val undecided = LogitsEngine { _, _ -> floatArrayOf(0f, 1f, 1f) }
        assertEquals(listOf(1), undecided.greedy(listOf(0), count = 1, stopIds = emptySet()))
    }
}
