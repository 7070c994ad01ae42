import Foundation

/// Writes the files of an archive below a folder and hashes them on the way, so that a model of a gigabyte is read once.
///
/// - Parameter onBytes: Told how many bytes of files there are so far.
/// - Returns: Path in the archive -> what was written.
/// - Throws: ``BundleProblem`` if the archive cannot be read, `CocoaError` if the folder cannot be written.
func unpack(
    _ archive: ByteStream,
    into folder: URL,
    onBytes: (Int) -> Void = { _ in }
) throws -> [String: StoredFile] {
    let tar = TarReader(archive)
    var stored: [String: StoredFile] = [:]
    var before = 0
    while let path = try tar.nextFile() {
        let file = try store(tar, as: folder.appendingPathComponent(path)) { onBytes(before + $0) }
        stored[path] = file
        before += file.bytes
    }
    return stored
}

private func store(_ tar: TarReader, as file: URL, onBytes: (Int) -> Void) throws -> StoredFile {
    try FileManager.default.createDirectory(at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
    guard FileManager.default.createFile(atPath: file.path, contents: nil) else { throw CocoaError(.fileWriteUnknown) }
    let output = try FileHandle(forWritingTo: file)
    defer { try? output.close() }
    var hash = SHA256Hash()
    var bytes = 0
    while let piece = try tar.read() {
        try output.write(contentsOf: piece)
        hash.update(piece)
        bytes += piece.count
        onBytes(bytes)
    }
    return StoredFile(bytes: bytes, sha256: hash.hexadecimal())
}
