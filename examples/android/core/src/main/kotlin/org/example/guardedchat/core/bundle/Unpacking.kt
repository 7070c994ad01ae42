package org.example.guardedchat.core.bundle

import java.io.File
import java.io.InputStream
import java.security.MessageDigest

private const val BUFFER = 1 shl 16

/**
 * Writes the files of an archive below a folder and hashes them on the way, so that a model of a gigabyte is read once.
 *
 * @param onBytes Told how many bytes of files there are so far.
 * @return Path in the archive -> what was written.
 * @throws BundleProblem if the archive cannot be read.
 * @throws java.io.IOException if the folder cannot be written.
 */
fun unpack(
    archive: InputStream,
    folder: File,
    onBytes: (Long) -> Unit = {},
): Map<String, StoredFile> {
    val tar = TarReader(archive)
    val stored = LinkedHashMap<String, StoredFile>()
    while (true) {
        val path = tar.nextFile() ?: return stored
        val before = stored.values.sumOf(StoredFile::bytes)
        stored[path] = store(tar, File(folder, path)) { onBytes(before + it) }
    }
}

private fun store(
    tar: TarReader,
    file: File,
    onBytes: (Long) -> Unit,
): StoredFile {
    val digest = MessageDigest.getInstance("SHA-256")
    val buffer = ByteArray(BUFFER)
    var bytes = 0L
    file.parentFile?.mkdirs()
    file.outputStream().use { output ->
        while (true) {
            val count = tar.read(buffer)
            if (count < 0) break
            output.write(buffer, 0, count)
            digest.update(buffer, 0, count)
            bytes += count
            onBytes(bytes)
        }
    }
    return StoredFile(bytes, digest.hex())
}
