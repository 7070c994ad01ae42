package org.example.guardedchat.core.bundle

import java.io.InputStream

/**
 * The files of a tar archive, in the order in which they come.
 *
 * Reads what the exporter writes (pax, POSIX.1-2001) and what GNU tar makes of it when somebody packs a bundle again.
 * Links, devices and files of more than 8 GiB have no place in a bundle for phones and are refused.
 */
class TarReader(
    private val input: InputStream,
) {
    private var left = 0L
    private var padding = 0L
    private var begun = false

    /**
     * The path of the next file, or `null` at the end; what was not read of the file before is skipped.
     *
     * @throws BundleProblem if it is no archive, a damaged one, or one that holds more than files and folders.
     */
    fun nextFile(): String? {
        var longName: String? = null
        while (true) {
            val header = nextHeader() ?: return null
            when (header.kind) {
                TarKind.PAX -> longName = paxPath(content()) ?: longName
                TarKind.GNU_LONG_NAME -> longName = content().decodeToString().trimEnd('\u0000')
                TarKind.FILE -> return path(longName ?: header.name)
                TarKind.FOLDER, TarKind.PAX_GLOBAL -> longName = null
                TarKind.OTHER -> throw BundleProblem.archive()
            }
        }
    }

    /** The next bytes of the file, or -1 at its end. */
    fun read(buffer: ByteArray): Int {
        if (left == 0L) return -1
        val count = input.read(buffer, 0, minOf(left, buffer.size.toLong()).toInt())
        if (count < 0) throw BundleProblem.archive()
        left -= count
        return count
    }

    private fun path(name: String): String {
        val path = name.removePrefix("./")
        if (!staysInside(path)) throw BundleProblem.archive()
        return path
    }

    private fun nextHeader(): TarHeader? {
        skip(left + padding)
        left = 0
        val block = ByteArray(TarHeader.BLOCK)
        val count = fill(block)
        if (count == 0 && begun) return null
        if (count < block.size) throw BundleProblem.archive()
        begun = true
        if (block.all { it == 0.toByte() }) return null
        val header = TarHeader.parse(block) ?: throw BundleProblem.archive()
        left = header.size
        padding = -header.size and (TarHeader.BLOCK - 1L)
        return header
    }

    /** An entry that belongs to the format itself, as a whole. */
    private fun content(): ByteArray {
        if (left > MAX_EXTENSION) throw BundleProblem.archive()
        val bytes = ByteArray(left.toInt())
        if (fill(bytes) < bytes.size) throw BundleProblem.archive()
        left = 0
        return bytes
    }

    private fun fill(bytes: ByteArray): Int {
        var filled = 0
        while (filled < bytes.size) {
            val count = input.read(bytes, filled, bytes.size - filled)
            if (count < 0) break
            filled += count
        }
        return filled
    }

    private fun skip(count: Long) {
        val buffer = ByteArray(BUFFER)
        var remaining = count
        while (remaining > 0) {
            val read = input.read(buffer, 0, minOf(remaining, buffer.size.toLong()).toInt())
            if (read < 0) throw BundleProblem.archive()
            remaining -= read
        }
    }

    private companion object {
        const val MAX_EXTENSION = 1 shl 20
        const val BUFFER = 1 shl 13
    }
}
