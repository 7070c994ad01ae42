package org.example.guardedchat.core

import org.example.guardedchat.core.bundle.BundleProblem
import org.example.guardedchat.core.bundle.BundleSlot
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.InputStream
import java.util.Base64

class BundleSlotTest {
    @get:Rule
    val scratch = TemporaryFolder()

    private val folder by lazy { scratch.root.resolve("chat") }
    private val slot by lazy { BundleSlot(folder, mapOf("executorch" to "1.4.0")) }

    private fun archive(about: String): InputStream {
        val cases = Vectors("bundles")["archives"] as List<*>
        val case = cases.map { Case(it as Map<*, *>) }.single { it.about == about }
        return Base64.getDecoder().decode(case.get<String>("base64")).inputStream()
    }

    @Test
    fun `it begins empty`() = assertNull(slot.open())

    @Test
    fun `a bundle that comes in stays`() {
        val bytes = ArrayList<Long>()
        slot.replace(archive("as the exporter writes it"), bytes::add)
        val bundle = slot.open()!!
        assertEquals("tiny", bundle.document.name)
        assertEquals("program", bundle.program.readText())
        assertEquals("{}", bundle.tokenizer.readText())
        assertEquals(bytes.sorted(), bytes)
        assertTrue(bytes.last() > "program{}".length)
    }

    @Test
    fun `one that is refused leaves the one before, and nothing else`() {
        slot.replace(archive("as the exporter writes it"))
        for (about in listOf("another byte", "a file too few", "cut off in a file", "no archive")) {
            assertThrows(about, BundleProblem::class.java) { slot.replace(archive(about)) }
            assertEquals("program", slot.open()!!.program.readText())
            assertEquals(listOf("chat"), scratch.root.list()!!.toList())
        }
    }

    @Test
    fun `one for another runtime is refused`() {
        val other = BundleSlot(folder, mapOf("executorch" to "1.3.0"))
        val error = assertThrows(BundleProblem::class.java) { other.replace(archive("as the exporter writes it")) }
        assertEquals("the bundle needs executorch 1.4.0, here is 1.3.0", error.message)
        assertNull(slot.open())
    }
}
