/// Every file is there and has the bytes that were bundled.
///
/// - Parameter stored: What lies under a path, `nil` if there is nothing.
/// - Throws: ``BundleProblem`` for the first file of which that is not so.
func checkFiles(_ files: [BundledFile], stored: (_ path: String) throws -> StoredFile?) throws {
    for file in files {
        guard let found = try stored(file.path) else { throw BundleProblem.fileMissing(file.path) }
        if found != file.stored { throw BundleProblem.fileChanged(file.path) }
    }
}

/// The runtime here is the one that the bundle was proved in.
///
/// - Parameter found: Runtime -> version.
/// - Throws: ``BundleProblem`` for the first that is not.
func checkRuntimes(_ needed: [RuntimeVersion], found: [String: String]) throws {
    for runtime in needed where found[runtime.name] != runtime.version {
        throw BundleProblem.runtime(runtime.name, expected: runtime.version, found: found[runtime.name] ?? "none")
    }
}
