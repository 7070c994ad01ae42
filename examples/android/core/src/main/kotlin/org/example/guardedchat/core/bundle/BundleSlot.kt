package org.example.guardedchat.core.bundle

import java.io.File
import java.io.IOException
import java.io.InputStream

/**
 * The place of one bundle in an app's storage.
 *
 * @param folder Where it lies, unpacked. A bundle that comes in is unpacked beside it and takes its place when it has
 * been checked, so that nothing half-written is ever found there.
 * @param runtimes Runtime -> version in this app.
 */
class BundleSlot(
    private val folder: File,
    private val runtimes: Map<String, String>,
) {
    private val incoming = File(folder.path + ".new")

    /**
     * The bundle here, or `null` if there is none.
     *
     * @throws BundleProblem if it is none that this app can read.
     */
    fun open(): Bundle? = if (folder.isDirectory) Bundle.read(folder) else null

    /**
     * Takes a bundle in and lets go of the one before.
     *
     * @param onBytes Told how many bytes have been read.
     * @throws BundleProblem if something is wrong with it; then the one before stays.
     * @throws IOException if it cannot be read or written; the same.
     */
    fun replace(
        archive: InputStream,
        onBytes: (Long) -> Unit = {},
    ): Bundle {
        incoming.deleteRecursively()
        try {
            val stored = unpack(archive, incoming, onBytes)
            val document = Bundle.read(incoming).document
            checkFiles(document.files, stored::get)
            checkRuntime(document.runtimeVersions, runtimes)
            folder.deleteRecursively()
            if (!incoming.renameTo(folder)) throw IOException("$incoming cannot be renamed")
        } finally {
            incoming.deleteRecursively()
        }
        return Bundle.read(folder)
    }
}
