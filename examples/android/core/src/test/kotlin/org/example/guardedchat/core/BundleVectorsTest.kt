package org.example.guardedchat.core

import org.example.guardedchat.core.bundle.Bundle
import org.example.guardedchat.core.bundle.BundleProblem
import org.example.guardedchat.core.bundle.GoldenAnswer
import org.example.guardedchat.core.bundle.checkFiles
import org.example.guardedchat.core.bundle.checkRuntime
import org.example.guardedchat.core.bundle.parseDocument
import org.example.guardedchat.core.bundle.unpack
import org.example.guardedchat.core.selftest.checkGolden
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.util.Base64

class BundleVectorsTest {
    @get:Rule
    val scratch = TemporaryFolder()

    private val vectors = Vectors("bundles")

    @Test
    fun `what is wrong with a document is said in the same words`() =
        vectors.compare("documents", { it.get<String?>("message") }) {
            messageOf<BundleProblem> { parseDocument(it["text"]) }
        }

    @Test
    fun `what is wrong with an archive is said in the same words`() =
        vectors.compare("archives", { it.get<String?>("message") }) { case ->
            val archive = Base64.getDecoder().decode(case.get<String>("base64"))
            val folder = scratch.newFolder()
            messageOf<BundleProblem> {
                val stored = unpack(archive.inputStream(), folder)
                checkFiles(Bundle.read(folder).document.files, stored::get)
            }
        }

    @Test
    fun `another runtime is refused in the same words`() =
        vectors.compare("runtimes", { it.get<String?>("message") }) {
            messageOf<BundleProblem> { checkRuntime(it["needed"], it["found"]) }
        }

    @Test
    fun `another answer is refused in the same words`() =
        vectors.compare("golden", { it.get<String?>("message") }) { case ->
            val found = case.answers("found")
            val golden = case.answers("expected").mapIndexed { number, ids -> GoldenAnswer(listOf(number), ids) }
            messageOf<BundleProblem> { checkGolden(golden) { prompt, _ -> found[prompt.single()] } }
        }

    private fun Case.answers(name: String) = get<List<List<Long>>>(name).map { ids -> ids.map(Long::toInt) }
}
