import Foundation

/// The place of one bundle in an app's storage.
public final class BundleSlot {
    private let folder: URL
    private let incoming: URL
    private let runtimes: [String: String]

    /// - Parameters:
    ///   - folder: Where it lies, unpacked. A bundle that comes in is unpacked beside it and takes its place when it has been
    ///     checked, so that nothing half-written is ever found there.
    ///   - runtimes: Runtime -> version in this app.
    public init(folder: URL, runtimes: [String: String]) {
        self.folder = folder
        self.runtimes = runtimes
        incoming = folder.appendingPathExtension("new")
    }

    /// The bundle here, or `nil` if there is none.
    ///
    /// - Throws: ``BundleProblem`` if it is none that this app can read.
    public func open() throws -> ModelBundle? {
        var isFolder: ObjCBool = false
        let exists = FileManager.default.fileExists(atPath: folder.path, isDirectory: &isFolder)
        return exists && isFolder.boolValue ? try ModelBundle(folder: folder) : nil
    }

    /// Takes a bundle in and lets go of the one before.
    ///
    /// - Parameter onBytes: Told how many bytes have been read.
    /// - Throws: ``BundleProblem`` if something is wrong with it, `CocoaError` if it cannot be read or written; then the one
    ///   before stays.
    public func replace(with archive: ByteStream, onBytes: (Int) -> Void = { _ in }) throws -> ModelBundle {
        let files = FileManager.default
        try? files.removeItem(at: incoming)
        defer { try? files.removeItem(at: incoming) }
        let stored = try unpack(archive, into: incoming, onBytes: onBytes)
        let document = try ModelBundle(folder: incoming).document
        try checkFiles(document.files) { stored[$0] }
        try checkRuntimes(document.runtimes, found: runtimes)
        try? files.removeItem(at: folder)
        try files.moveItem(at: incoming, to: folder)
        return try ModelBundle(folder: folder)
    }
}
