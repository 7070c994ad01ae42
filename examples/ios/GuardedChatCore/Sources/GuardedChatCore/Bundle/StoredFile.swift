import Foundation

/// What lies under a path of a bundle; ``sha256`` in lower case.
public struct StoredFile: Equatable {
    public let bytes: Int
    public let sha256: String

    public init(bytes: Int, sha256: String) {
        self.bytes = bytes
        self.sha256 = sha256
    }

    /// What a file holds now.
    ///
    /// - Throws: `CocoaError` if it cannot be read.
    public init(_ file: URL) throws {
        var hash = SHA256Hash()
        var bytes = 0
        let input = try ByteStream(file)
        while let piece = try input.read(upTo: 1 << 16) {
            hash.update(piece)
            bytes += piece.count
        }
        self.init(bytes: bytes, sha256: hash.hexadecimal())
    }
}
