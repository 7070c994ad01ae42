package org.example.guardedchat.core.bundle

import java.io.File
import java.security.MessageDigest

/** What lies under a path of a bundle; [sha256] in lower case. */
data class StoredFile(
    val bytes: Long,
    val sha256: String,
)

private const val BUFFER = 1 shl 16

/** What a file holds now. */
fun storedFile(file: File): StoredFile {
    val digest = MessageDigest.getInstance("SHA-256")
    val buffer = ByteArray(BUFFER)
    file.inputStream().use { input ->
        while (true) {
            val count = input.read(buffer)
            if (count < 0) break
            digest.update(buffer, 0, count)
        }
    }
    return StoredFile(file.length(), digest.hex())
}

/** The digest in lower case. */
internal fun MessageDigest.hex(): String = digest().joinToString("") { "%02x".format(it) }
