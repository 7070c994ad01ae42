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
    /** The program that the runtime loads. */
    val artifact = File(folder, document.artifact)

    /** What the runtime's tokenizer reads; it lies beside the program. */
    val tokenizer = File(artifact.parentFile, "tokenizer.json")

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
