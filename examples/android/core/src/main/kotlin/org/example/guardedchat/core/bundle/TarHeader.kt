package org.example.guardedchat.core.bundle

/** What an entry is, by its type flag (POSIX.1-2001 pax, "ustar Header Block"; `L` is GNU's). */
internal enum class TarKind(
    val flags: String,
) {
    FILE("0\u0000"),
    FOLDER("5"),
    PAX("x"),
    PAX_GLOBAL("g"),
    GNU_LONG_NAME("L"),
    OTHER(""),
}

/** The block before each entry. */
internal class TarHeader(
    val name: String,
    val size: Long,
    val kind: TarKind,
) {
    companion object {
        const val BLOCK = 512

        /** `null` if the block's checksum or numbers are wrong. */
        fun parse(block: ByteArray): TarHeader? {
            val size = octal(block, SIZE) ?: return null
            if (octal(block, CHECKSUM) != sum(block)) return null
            val name = text(block, NAME)
            // GNU uses the place of the prefix for something else.
            val prefix = if (text(block, MAGIC) == "ustar") text(block, PREFIX) else ""
            val kind = TarKind.entries.firstOrNull { block[TYPE].toInt().toChar() in it.flags } ?: TarKind.OTHER
            return TarHeader(if (prefix == "") name else "$prefix/$name", size, kind)
        }

        private val NAME = 0 until 100
        private val SIZE = 124 until 136
        private val CHECKSUM = 148 until 156
        private const val TYPE = 156
        private val MAGIC = 257 until 263
        private val PREFIX = 345 until 500

        private fun text(
            block: ByteArray,
            range: IntRange,
        ): String {
            val end = range.firstOrNull { block[it] == 0.toByte() } ?: (range.last + 1)
            return block.decodeToString(range.first, end)
        }

        private fun octal(
            block: ByteArray,
            range: IntRange,
        ): Long? = text(block, range).trim().toLongOrNull(radix = 8)?.takeIf { it >= 0 }

        /** The bytes of the block added up, with spaces where the sum itself stands. */
        private fun sum(block: ByteArray): Long =
            block.indices.sumOf { if (it in CHECKSUM) ' '.code.toLong() else block[it].toLong() and 0xff }
    }
}

/** The path in a pax header: records of the form `length key=value\n`, the length in bytes and of the whole record. */
internal fun paxPath(records: ByteArray): String? {
    var begin = 0
    while (begin < records.size) {
        val space = (begin until records.size).firstOrNull { records[it] == ' '.code.toByte() }
        val length = space?.let { records.decodeToString(begin, it).toIntOrNull() }
        if (space == null || length == null || length <= space - begin || length > records.size - begin) {
            throw BundleProblem.archive()
        }
        val record = records.decodeToString(space + 1, begin + length).removeSuffix("\n")
        if (record.startsWith("path=")) return record.removePrefix("path=")
        begin += length
    }
    return null
}
