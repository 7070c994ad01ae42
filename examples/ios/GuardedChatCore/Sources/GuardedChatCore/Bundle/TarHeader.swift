/// What an entry is, by its type flag (POSIX.1-2001 pax, "ustar Header Block"; `L` is GNU's).
enum TarKind {
    case file, folder, pax, paxGlobal, gnuLongName, other

    init(flag: UInt8) {
        switch flag {
        case UInt8(ascii: "0"), 0: self = .file
        case UInt8(ascii: "5"): self = .folder
        case UInt8(ascii: "x"): self = .pax
        case UInt8(ascii: "g"): self = .paxGlobal
        case UInt8(ascii: "L"): self = .gnuLongName
        default: self = .other
        }
    }
}

/// The block before each entry.
struct TarHeader {
    static let block = 512

    let name: String
    let size: Int
    let kind: TarKind

    /// `nil` if the block's checksum or numbers are wrong.
    init?(_ block: [UInt8]) {
        guard let size = octal(block[124..<136]), octal(block[148..<156]) == checksum(of: block) else { return nil }
        let name = text(block[0..<100])
        // GNU uses the place of the prefix for something else.
        let prefix = text(block[257..<263]) == "ustar" ? text(block[345..<500]) : ""
        self.name = prefix.isEmpty ? name : "\(prefix)/\(name)"
        self.size = size
        kind = TarKind(flag: block[156])
    }
}

private func text(_ field: ArraySlice<UInt8>) -> String {
    String(decoding: field.prefix { $0 != 0 }, as: UTF8.self)
}

private func octal(_ field: ArraySlice<UInt8>) -> Int? {
    let digits = text(field).split(separator: " ")
    guard digits.count == 1, let found = Int(digits[0], radix: 8), found >= 0 else { return nil }
    return found
}

/// The bytes of the block added up, with spaces where the sum itself stands.
private func checksum(of block: [UInt8]) -> Int {
    block.enumerated().reduce(0) { $0 + Int((148..<156).contains($1.offset) ? UInt8(ascii: " ") : $1.element) }
}

/// The path in a pax header: records of the form `length key=value\n`, the length in bytes and of the whole record.
///
/// - Throws: ``BundleProblem`` if there is another form.
func paxPath(_ records: [UInt8]) throws -> String? {
    var rest = records[...]
    while !rest.isEmpty {
        let digits = rest.prefix { $0 != UInt8(ascii: " ") }
        guard let length = Int(String(decoding: digits, as: UTF8.self)), length > digits.count, length <= rest.count
        else { throw BundleProblem.archive }
        var record = rest.prefix(length).dropFirst(digits.count + 1)
        if record.last == UInt8(ascii: "\n") { record.removeLast() }
        if record.starts(with: "path=".utf8) { return String(decoding: record.dropFirst(5), as: UTF8.self) }
        rest = rest.dropFirst(length)
    }
    return nil
}
