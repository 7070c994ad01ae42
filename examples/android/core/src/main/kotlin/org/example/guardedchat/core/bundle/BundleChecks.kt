package org.example.guardedchat.core.bundle

/**
 * Every file is there and has the bytes that were bundled.
 *
 * @param stored What lies under a path, `null` if there is nothing.
 * @throws BundleProblem for the first file of which that is not so.
 */
fun checkFiles(
    files: List<BundledFile>,
    stored: (path: String) -> StoredFile?,
) {
    for (file in files) {
        val found = stored(file.path) ?: throw BundleProblem.fileMissing(file.path)
        if (found != StoredFile(file.bytes, file.sha256)) throw BundleProblem.fileChanged(file.path)
    }
}

/**
 * The runtime here is the one that the bundle was proved in; both are runtime -> version.
 *
 * @throws BundleProblem for the first that is not.
 */
fun checkRuntime(
    needed: Map<String, String>,
    found: Map<String, String>,
) {
    for ((name, version) in needed) {
        if (found[name] != version) throw BundleProblem.runtime(name, version, found[name] ?: "none")
    }
}
