package org.example.guardedchat.core.selftest

import org.example.guardedchat.core.bundle.Bundle
import org.example.guardedchat.core.bundle.BundleProblem
import org.example.guardedchat.core.bundle.GoldenAnswer
import org.example.guardedchat.core.bundle.checkFiles
import org.example.guardedchat.core.bundle.checkRuntime
import org.example.guardedchat.core.bundle.storedFile
import java.io.File

/**
 * The runtime here answers as the one that the bundle was made with.
 *
 * @param greedy Prompt and number of tokens -> at most these many tokens, the likeliest each time.
 * @throws BundleProblem for the first answer that differs.
 */
fun checkGolden(
    golden: List<GoldenAnswer>,
    greedy: (promptIds: List<Int>, count: Int) -> List<Int>,
) {
    golden.forEachIndexed { index, expected ->
        val found = greedy(expected.promptIds, expected.answerIds.size)
        if (found != expected.answerIds) throw BundleProblem.goldenDiffers(index + 1)
    }
}

/** Proves on the device that a bundle is whole and that the runtime computes with it what it should. */
class SelfTest(
    private val runtimes: Map<String, String>,
    private val load: (Bundle) -> LogitsEngine,
) {
    /** What is looked at, in this order. */
    enum class Step { FILES, RUNTIME, GOLDEN_ANSWERS }

    /**
     * @param onPassed Told of each step that passed.
     * @throws BundleProblem if something is wrong.
     */
    fun run(
        bundle: Bundle,
        onPassed: (Step) -> Unit,
    ) {
        val document = bundle.document
        checkFiles(document.files) { path -> File(bundle.folder, path).takeIf(File::isFile)?.let(::storedFile) }
        onPassed(Step.FILES)
        checkRuntime(document.runtimeVersions, runtimes)
        onPassed(Step.RUNTIME)
        load(bundle).use { engine ->
            checkGolden(document.golden) { ids, count -> engine.greedy(ids, count, document.stopIds) }
        }
        onPassed(Step.GOLDEN_ANSWERS)
    }
}
