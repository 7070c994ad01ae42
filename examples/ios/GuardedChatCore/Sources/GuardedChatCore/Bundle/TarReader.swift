private let maxExtension = 1 << 20
private let bufferSize = 1 << 16

/// The files of a tar archive, in the order in which they come.
///
/// Reads what the exporter writes (pax, POSIX.1-2001) and what GNU tar makes of it when somebody packs a bundle again. Links,
/// devices and files of more than 8 GiB have no place in a bundle for phones and are refused.
final class TarReader {
    private let input: ByteStream
    private var left = 0
    private var padding = 0
    private var begun = false

    init(_ input: ByteStream) {
        self.input = input
    }

    /// The path of the next file, or `nil` at the end; what was not read of the file before is skipped.
    ///
    /// - Throws: ``BundleProblem`` if it is no archive, a damaged one, or one that holds more than files and folders.
    func nextFile() throws -> String? {
        var longName: String?
        while let header = try nextHeader() {
            switch header.kind {
            case .pax: longName = try paxPath(try content()) ?? longName
            case .gnuLongName: longName = String(decoding: try content().prefix { $0 != 0 }, as: UTF8.self)
            case .file: return try path(longName ?? header.name)
            case .folder, .paxGlobal: longName = nil
            case .other: throw BundleProblem.archive
            }
        }
        return nil
    }

    /// The next bytes of the file, or `nil` at its end.
    func read() throws -> ArraySlice<UInt8>? {
        if left == 0 { return nil }
        guard let found = try input.read(upTo: min(left, bufferSize)) else { throw BundleProblem.archive }
        left -= found.count
        return found
    }

    private func path(_ name: String) throws -> String {
        let bytes = name.utf8
        let path = bytes.starts(with: "./".utf8) ? String(decoding: bytes.dropFirst(2), as: UTF8.self) : name
        if !staysInside(path) { throw BundleProblem.archive }
        return path
    }

    private func nextHeader() throws -> TarHeader? {
        while try read() != nil {}
        if try bytes(padding).count < padding { throw BundleProblem.archive }
        let block = try bytes(TarHeader.block)
        if block.isEmpty && begun { return nil }
        if block.count < TarHeader.block { throw BundleProblem.archive }
        begun = true
        if block.allSatisfy({ $0 == 0 }) { return nil }
        guard let header = TarHeader(block) else { throw BundleProblem.archive }
        left = header.size
        padding = -header.size & (TarHeader.block - 1)
        return header
    }

    /// An entry that belongs to the format itself, as a whole.
    private func content() throws -> [UInt8] {
        if left > maxExtension { throw BundleProblem.archive }
        let found = try bytes(left)
        if found.count < left { throw BundleProblem.archive }
        left = 0
        return found
    }

    /// So many bytes, or all that there are.
    private func bytes(_ count: Int) throws -> [UInt8] {
        var found: [UInt8] = []
        while found.count < count, let piece = try input.read(upTo: count - found.count) { found += piece }
        return found
    }
}
