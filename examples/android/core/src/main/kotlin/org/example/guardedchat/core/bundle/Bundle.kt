package org.example.guardedchat.core.bundle

import java.io.File
import java.nio.ByteBuffer
import java.nio.charset.CharacterCodingException

private const val DOCUMENT = "bundle.json"

/** An unpacked bundle. */
class Bundle(
    val folder: File,
    val document: BundleDocument,
) {
    /** What the runtime loads first. */
    val program = File(folder, document.artifact.first())

    /** Weights that the program has in files of their own. */
    val data = document.artifact.drop(1).map { File(folder, it) }

    /** What the runtime's tokenizer reads; it lies beside the program. */
    val tokenizer = File(program.parentFile, "tokenizer.json")

    companion object {
        /** @throws BundleProblem if the document is missing or not valid; files are not looked at. */
        fun read(folder: File): Bundle {
            val file = File(folder, DOCUMENT)
            if (!file.isFile) throw BundleProblem.missing()
            return Bundle(folder, parseDocument(decode(file.readBytes())))
        }

        private fun decode(bytes: ByteArray): String =
            try {
                // Unlike readText(), a decoder refuses what is not UTF-8.
                Charsets.UTF_8
                    .newDecoder()
                    .decode(ByteBuffer.wrap(bytes))
                    .toString()
            } catch (_: CharacterCodingException) {
                throw BundleProblem.invalid("it is not JSON")
            }
    }
}
