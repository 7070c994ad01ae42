import Foundation

/// The bytes of a file or of memory, one after the other.
///
/// `InputStream` fills our own buffer, while `FileHandle` makes an object of each piece, which live until the end of a gigabyte.
public final class ByteStream {
    private let stream: InputStream
    private var buffer: [UInt8] = []

    /// - Throws: `CocoaError` if the file cannot be read.
    public init(_ file: URL) throws {
        guard let stream = InputStream(url: file) else { throw CocoaError(.fileReadNoSuchFile) }
        self.stream = stream
        stream.open()
        if stream.streamStatus == .error { throw stream.streamError ?? CocoaError(.fileReadUnknown) }
    }

    public init(_ data: Data) {
        stream = InputStream(data: data)
        stream.open()
    }

    deinit {
        stream.close()
    }

    /// The next bytes, at least one and at most `count`; `nil` at the end.
    ///
    /// - Throws: `CocoaError` if they cannot be read.
    public func read(upTo count: Int) throws -> ArraySlice<UInt8>? {
        if buffer.count < count { buffer = [UInt8](repeating: 0, count: count) }
        let found = stream.read(&buffer, maxLength: count)
        if found < 0 { throw stream.streamError ?? CocoaError(.fileReadUnknown) }
        return found == 0 ? nil : buffer[..<found]
    }
}
